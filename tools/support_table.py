"""Write docs/support.md: every class of transformers' image-text-to-text mapping and its verdict.

    python -m tools.support_table

Tested are the classes of tests/families; what ran once is read from docs/support.json, the record
of tools/support_sweep.py; the rest is what `support` says of the installed classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
)

from otprune.engines.transformers import support
from otprune.engines.transformers.families import family
from tests.families.tiny import FAMILIES

DOCS = Path(__file__).parent.parent / "docs"
TABLE, RECORD = DOCS / "support.md", DOCS / "support.json"

GROUPINGS = {
    "entry": "what the encoder gives as one",
    "run": "an unbroken run of placeholders",
    "opened": "tiles, the first marked",
    "closed": "tiles, the overview last",
    "ended": "tiles, an end mark",
    "joined": "tiles one token apart",
}

HEAD = """\
# Supported models

Every class of the image-text-to-text mapping of transformers {version}, {total} in all. Written by
`python -m tools.support_table`; do not edit.

- **tested** ({tested}): in the matrix of `tests/families`, with sdpa and eager attention. Keeping
  everything changes no bit; keeping less equals, token by token, a reference that is built by hand
  from the same embeddings; beams, every method, merging, and video where the family takes it.
- **works by mechanism, run** ({ran}): a small random model of the class was shown pictures
  (no video) by `tools/support_sweep.py`. Keeping everything gives the same answer; keeping half
  hands the language model exactly what it gets unpruned, less the dropped rows, at the right
  positions.
- **works by mechanism, not run** ({unrun}): takes encoder outputs as the others do, but no small
  model of it was run here; the note says why.
- **refused** ({refused}): `prune` raises `UnsupportedError` with this reason.

A number of tokens is kept *of each picture*. What makes one picture is in the last column but one:
tiles of a picture are put together again, and marks between them stay in the prompt. Where a
processor makes several pictures of one (crops of Gemma3's pan and scan, frames of a video that
InternVL or SmolVLM are shown), each of them is a picture. Rows that only end a line (newlines of
the LLaVA-NeXT kind) are tokens of their picture like any other.

Some families see more of this than others:

- Sliding windows (Gemma3) count the tokens that survive, so a window reaches further back.
- PaliGemma with `prefill_chunk_size` answers otherwise than without, unpruned too: its prompt sees
  itself in both directions, and a chunk does not see the next.
- transformers before 5.23 loses pictures with `prefill_chunk_size`, and mixes them up with several
  beams or sequences when a row holds several; `prune` refuses both there.

| class | model type | verdict | one picture | note |
| --- | --- | --- | --- | --- |
"""


def classes() -> dict[str, list[str]]:
    """Class name to the model types that map to it."""
    found: dict[str, list[str]] = {}
    for model_type, names in NAMES.items():
        for name in [names] if isinstance(names, str) else names:
            found.setdefault(name, []).append(model_type)
    return dict(sorted(found.items()))


def verdict(name: str, tested: set[str], record: dict[str, Any]) -> tuple[str, str, str]:
    """Verdict, what makes one picture, and a note."""
    model_class = getattr(transformers, name)
    able, why = support(model_class)
    if not able:
        return "refused", "", why.removeprefix(name).lstrip(": ")
    grouping = GROUPINGS[family(model_class.config_class).grouping]
    if name in tested:
        return "tested", grouping, ""
    ran = record["classes"].get(name, {"outcome": "not run", "why": "new since the last sweep"})
    if ran["outcome"] == "ran":
        return "works by mechanism, run", grouping, ""
    if ran["outcome"] == "not run":
        return "works by mechanism, not run", grouping, ran["why"]
    raise ValueError(f"{name} is accepted, and went wrong in the sweep: {ran['why']}")


def table(record: dict[str, Any]) -> str:
    """The whole of docs/support.md for the installed transformers."""
    tested = {type(f.model()).__name__ for f in FAMILIES.values()}
    rows, counts = [], dict.fromkeys(("tested", "run", "not run", "refused"), 0)
    for name, types in classes().items():
        what, picture, note = verdict(name, tested, record)
        counts[what.rpartition(", ")[2]] += 1
        note = note.replace("|", "\\|").replace("<", "\\<")
        kinds = ", ".join(f"`{kind}`" for kind in types)
        rows.append(f"| {name} | {kinds} | {what} | {picture} | {note} |\n")
    head = HEAD.format(
        version=transformers.__version__,
        total=len(rows),
        tested=counts["tested"],
        ran=counts["run"],
        unrun=counts["not run"],
        refused=counts["refused"],
    )
    return head + "".join(rows)


if __name__ == "__main__":
    TABLE.write_text(table(json.loads(RECORD.read_text())))
