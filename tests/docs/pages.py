"""Pages, their blocks of code, and what a reader has before the first of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted(DOCS.glob("*.md")),
]
# A block that cannot run here has this comment in the line before it, which readers do not see.
FENCE = re.compile(
    r"^(?P<mark><!-- not run: [^\n]+ -->\n)?```(?P<kind>\w*)[^\n]*\n(?P<text>.*?)^```$",
    flags=re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    kind: str  # python, console, text, ...
    text: str
    runs: bool  # False: marked as not run
    printed: str | None  # of Python: the text block right behind it, which it must print


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    matches = list(FENCE.finditer(text))
    for match, after in zip_longest(matches, matches[1:]):
        follows = after is not None and not text[match.end() : after.start()].strip()
        printed = after["text"] if follows and after["kind"] == "text" else None
        found.append(Block(match["kind"], match["text"], match["mark"] is None, printed))
    return found
