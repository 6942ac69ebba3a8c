"""How well the embedded model answers about the sample clip, by what is kept and remembered.

`python -m otprune_training.evaluate_clip` prints a table in Markdown. Every quarter of a second it
asks "Is there a ...?" about each sticker of the clip and about three that never come, and compares
the answers with what is there now, and with what has been there so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import otprune
from otprune import demo
from otprune_training.clip import STAYS, stickers_at

EVERY = 0.25  # seconds
ABSENT = ("yellow square", "red star", "green circle")
THERE = tuple(f"{stay.color} {'digit' if stay.kind.isdigit() else stay.kind}" for stay in STAYS)
# name, selector, memory in tokens, what leaves it
SETTINGS: tuple[tuple[str, Callable[[], Any], int | None, Any], ...] = (
    ("otprune, rate 16", lambda: otprune.OTPrune(16), 16, "oldest"),
    ("otprune, rate 36", lambda: otprune.OTPrune(36), 36, "oldest"),
    ("uniform, rate 16", lambda: otprune.UniformStream(16), 16, "oldest"),
    ("uniform, rate 36", lambda: otprune.UniformStream(36), 36, "oldest"),
    ("all tokens", lambda: otprune.OTPrune(1.0), 144, "oldest"),
    ("otprune, rate 16", lambda: otprune.OTPrune(16), 32, "oldest"),
    ("otprune, rate 16", lambda: otprune.OTPrune(16), 64, "oldest"),
    ("otprune, rate 16", lambda: otprune.OTPrune(16), 256, "oldest"),
    ("stream, rate 16", lambda: otprune.StreamSelector(16), 72, "oldest"),
    ("stream, rate 16", lambda: otprune.StreamSelector(16), None, "oldest"),
    (
        "stream, rate 16, half_life 10",
        lambda: otprune.StreamSelector(16, half_life=10),
        None,
        "oldest",
    ),
    ("fixed-camera, rate 16", lambda: otprune.FixedCameraSelector(16), 144, "oldest"),
    ("fixed-camera, rate 16", lambda: otprune.FixedCameraSelector(16), None, "oldest"),
    ("dtd, threshold 0.9", lambda: otprune.DTD(0.9), 144, "oldest"),
    ("dtd, threshold 0.9", lambda: otprune.DTD(0.9), None, "oldest"),
    ("fixed-camera, rate 16", lambda: otprune.FixedCameraSelector(16), 144, "replaced"),
    ("fixed-camera, rate 4", lambda: otprune.FixedCameraSelector(4), 144, "replaced"),
    ("dtd, threshold 0.9", lambda: otprune.DTD(0.9), 144, "replaced"),
    ("stream, rate 16", lambda: otprune.StreamSelector(16), None, "replaced"),
)


def main() -> None:
    model, processor = demo.load()
    frames = list(otprune.frames(demo.CLIP))
    print("| method | memory | leaves | kept a frame | right, now | right, so far | absent: yes |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |")
    for name, selector, memory, forget in SETTINGS:
        kept, now, so_far, false = 0, [], [], []
        how: dict[str, Any] = {"memory": memory, "forget": forget}
        with otprune.watch(model, processor, selector(), **how) as session:
            seen: set[str] = set()
            slot = -1
            for time, image in frames:
                kept += len(session.see(image, time).indices)
                there = {sticker.name for sticker in stickers_at(time)}
                seen |= there
                if int(time / EVERY + 1e-3) == slot:
                    continue
                slot = int(time / EVERY + 1e-3)
                for thing in (*THERE, *ABSENT):
                    said = session.ask(f"Is there a {thing}?", max_new_tokens=2, do_sample=False)
                    if thing in ABSENT:
                        false.append(said == "yes")
                    now.append(said == ("yes" if thing in there else "no"))
                    so_far.append(said == ("yes" if thing in seen else "no"))
        figures = (kept / len(frames), 100 * _mean(now), 100 * _mean(so_far), 100 * _mean(false))
        cells = [name, str(memory or "default"), forget, *(f"{x:.1f}" for x in figures)]
        print(f"| {' | '.join(cells)} |", flush=True)


def _mean(given: list[bool]) -> float:
    return sum(given) / len(given)


if __name__ == "__main__":
    main()
