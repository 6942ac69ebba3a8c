"""The page's style: colours as variables over gradio's own, which differ in dark mode."""

CSS = """
.gradio-container { --otp-soft: #56606b; --otp-line: #c9ced4; --otp-bad: #a4161a;
  --block-info-text-color: var(--otp-soft); --body-text-color-subdued: var(--otp-soft);
  --otp-bad-fill: #fdecec; --otp-0: #1f5fae; --otp-1: #b35806; --otp-2: #24752b; }
.dark .gradio-container, .dark.gradio-container, .gradio-container.dark { --otp-soft: #b6bec8;
  --otp-line: #4a525c; --otp-bad: #ffb4b4; --otp-bad-fill: #431d1f; --otp-0: #7db4f5;
  --otp-1: #f5a65b; --otp-2: #7fd087; }
.gradio-container { width: 100%; max-width: 1360px !important; margin: 0 auto; }
.block.otp-html:has(> .html-container > .otp-html:empty) { display: none; }
.otp-soft { color: var(--otp-soft) !important; font-size: .9rem; }
.otp-problem { color: var(--otp-bad); background: var(--otp-bad-fill); padding: .7rem 1rem;
  border: 1px solid currentColor; border-radius: 6px; overflow-wrap: anywhere; }
.otp-figure { margin: 0; }
.otp-says { min-height: 1.5em; }
.otp-figure img, .otp-picture { display: block; width: 100%; max-width: 640px; height: auto;
  border-radius: 4px; }
.otp-picture path { vector-effect: non-scaling-stroke; }
.otp-dropped { fill: rgb(12 14 18 / .68); }
.otp-unseen { fill: rgb(128 132 138 / .75); }
.otp-kept { fill: none; stroke: #fff; stroke-width: 1.5; pointer-events: none; }
.otp-cell { cursor: pointer; outline: none; }
.otp-area { fill: transparent; }
.otp-cell:hover .otp-area, .otp-cell:focus .otp-area, .otp-held .otp-area {
  fill: rgb(255 196 0 / .5); }
.otp-cell:hover .otp-kept, .otp-cell:focus .otp-kept, .otp-held .otp-kept {
  stroke: #ffc400; stroke-width: 4; }
.otp-html h3 { font-size: 1.05rem; font-weight: 600; margin: .8rem 0 .3rem; }
.otp-html p { margin: .4rem 0; }
.otp-figures td:nth-child(2) { white-space: nowrap; }
table.otp-figures { width: 100%; border-collapse: collapse; font-size: .92rem; }
.otp-figures caption { text-align: left; font-weight: 600; padding: .4rem 0; }
.otp-figures th, .otp-figures td { text-align: left; vertical-align: top; padding: .3rem .6rem;
  border-bottom: 1px solid var(--otp-line); overflow-wrap: break-word; }
.otp-scroll { overflow-x: auto; }
.otp-bar-row { margin: .5rem 0; }
.otp-bar { display: flex; height: 20px; margin-top: .2rem; }
.otp-bar span { display: block; height: 100%; min-width: 1px; }
.otp-encoder { background: var(--otp-0); }
.otp-selection { background: var(--otp-1); }
.otp-prefill { background: var(--otp-2); }
.otp-legend { list-style: none !important; padding: 0 !important; display: flex; flex-wrap: wrap;
  gap: .2rem 1.2rem; font-size: .9rem; }
.otp-legend li { margin: 0; }
.otp-key { display: inline-block; width: 14px; height: 14px; margin-right: .4rem;
  vertical-align: -2px; }
.otp-key-line { display: inline-block; width: 28px; height: 10px; margin-right: .4rem; }
.otp-curve > svg { width: 100%; max-width: 760px; height: auto; display: block; }
.otp-grid { stroke: var(--otp-line); }
.otp-tick { fill: var(--otp-soft); font-size: 15px; }
.otp-line { fill: none; stroke-width: 2; }
.otp-line-0 { stroke: var(--otp-0); fill: var(--otp-0); }
.otp-line-1 { stroke: var(--otp-1); fill: var(--otp-1); stroke-dasharray: 7 4; }
.otp-line-2 { stroke: var(--otp-2); fill: var(--otp-2); stroke-dasharray: 2 4; }
polyline.otp-line { fill: none; }
.otp-dot { stroke-width: 2; stroke-dasharray: none; }
.otp-dot.otp-other { fill: var(--background-fill-primary); }
.otp-cards { display: grid; gap: .7rem; grid-template-columns: repeat(auto-fill,
  minmax(min(138px, 100%), 1fr)); }
.otp-card { border: 1px solid var(--otp-line); border-radius: 6px; padding: .6rem; min-width: 0; }
.otp-card h3 { margin: 0 0 .5rem; }
.otp-answer { font-weight: 600; overflow-wrap: anywhere; }
.otp-plain { list-style: none !important; padding: 0 !important; font-size: .9rem; }
.otp-help { white-space: pre-wrap; font-size: .85rem; overflow-wrap: anywhere; }
footer { display: none !important; }
"""
