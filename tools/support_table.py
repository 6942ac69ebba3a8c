"""Write docs/support.md: every class of transformers' image-text-to-text mapping and its verdict.

    python -m tools.support_table

Tested are the classes of tests/families; what ran once is read from docs/support.json, the record
of tools/support_sweep.py and, for the stages inside the encoder and the language model and for
sessions, tools/support_stage.py, tools/support_layers.py and tools/support_watch.py; the rest is
what `support` says of the installed classes.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
)

from otprune.engines.transformers import support
from otprune.engines.transformers.families import Family, encoders, family
from otprune.engines.transformers.heads import base_of, generative_of, head_of, is_policy
from otprune.engines.transformers.towers import TOWERS

DOCS = Path(__file__).parent.parent / "docs"
TABLE, RECORD = DOCS / "support.md", DOCS / "support.json"

GROUPINGS = {
    "entry": "what the encoder gives as one",
    "run": "an unbroken run of placeholders",
    "alone": "an unbroken run of one tile",
    "overview": "one tile, or tiles that an overview shows",
    "quarters": "one tile, or four that a fifth shows",
    "stacked": "what its pixels stack",
    "opened": "tiles, the first marked",
    "closed": "tiles, the overview last",
    "ended": "tiles, each with a name",
    "joined": "tiles one token apart",
}
# Classes in the matrix of tests/families, which holds that they are these.
TESTED = {
    "Gemma3ForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "InternVLForConditionalGeneration",
    "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Mistral3ForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "Qwen2VLForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
}
# What a sweep cannot tell: by class, the releases that it is true of and what is to be known.
BROKEN = {
    "Llama4ForConditionalGeneration": (
        ("5.24",),
        "its own forward() raises in transformers 5.24, on text alone too",
    ),
}

HEAD = """\
# Supported models

Every class of the image-text-to-text mapping of transformers {version} that answers in text,
{total} in all; [below](#models-that-do-not-generate) those that do not: base models, heads that
classify or embed, policies. Written by `python -m tools.support_table`; do not edit.

- **tested** ({tested}): in the matrix of `tests/families`, with sdpa and eager attention. Keeping
  everything changes no bit; keeping less equals, token by token, a reference that is built by hand
  from the same embeddings; beams, every method, merging, and video where the family takes it.
- **works by mechanism, run** ({ran}): `tools/support_sweep.py` asked a small random model of the
  class, with prompts laid out as its processor writes them: one image, two, two that touch, a
  padded batch with a row that has none, tiles, videos, two beams. What is found is what is there;
  keeping everything gives the same answer; keeping half hands the language model exactly what it
  gets unpruned, less the dropped rows, at the right positions; and generate() gives what forward()
  gives on its answer. Calls that transformers itself does not answer are named.
- **works by mechanism, not run** ({unrun}): takes encoder outputs as the others do, but no small
  model of it was run here; the note says why.
- **refused** ({refused}): `prune` raises `UnsupportedError` with this reason.

A number of tokens is kept *of each image*, and of each video over all its frames. What makes one
image is in a column of the table: tiles of an image are put together again, and marks between them
stay in the prompt. Where a processor makes several images of one (crops of Gemma3's pan and scan),
or images of the frames of a video (InternVL, SmolVLM), each of them is an image. Where nothing in a
call tells where a video ends, each frame or each chunk of frames counts for itself; `run.last` says
so (`unit`). Rows that only end a line (newlines of the LLaVA-NeXT kind) are tokens of their image
like any other.

Images that touch in the prompt are an image each. Where they cannot be told from the tiles of one
image, the call is refused:

- Aria, and LFM2-VL without special tokens: several tiles with nothing between them.
- LFM2-VL: two tiles of one size with one token between them.

Some families see more of this than others:

- `positions="compact"` is the only choice where position ids do not reach attention; the note says
  so. "preserved" is refused there.
- Sliding windows (Gemma3) count the tokens that survive, so a window reaches further back.
- PaliGemma with `prefill_chunk_size` answers otherwise than without, unpruned too: its prompt sees
  itself in both directions, and a chunk does not see the next.
- GLM4V and its kin have one placeholder for images and videos; a call brings the one or the other,
  as without pruning. Their generate() mixes up the images of a row when it repeats rows for beams;
  with pruning it does not, unless every token is kept.
- transformers before 5.23 loses images with `prefill_chunk_size`, and mixes them up with several
  beams or sequences when a row holds several; `prune` refuses both there.

The column "inside the encoder" says whether `prune(..., encoder=EncoderStage(...))` is right for
the encoder of the class ([how](encoder.md)), and names the encoder of the
default config. A checkpoint may have another one (a LLaVA with SigLIP or Pixtral instead of CLIP):
that one counts. It is right for these, whatever the class of the model:
{towers}.

- **tested**: in the matrix of `tests/families`, and the encoder by itself in `tests/towers`, which
  compares with literally repeated tokens.
- **run**: the encoder by itself in `tests/towers`; a small random model of the class was asked by
  `tools/support_stage.py`, with the calls above. Keeping everything changes no bit; keeping half
  hands the language model exactly what the encoder gives; generate() gives what forward() gives.
- **not run**: no small model of the class was run.
- **refused**: `prune` with `encoder=` raises `UnsupportedError`, since it is not known which tokens
  of this encoder show what. Without `encoder=` the verdict holds.

*among all*: the model mixes the tokens of its encoder, in images or in videos, or reads several
layers. The selector in front of the language model then chooses among all its tokens, copies
included.

The column "inside the language model" says the same of `prune(..., layers=LayerStage(...))`,
pruning [inside the language model](methods.md#inside-the-language-model) of the default config.

- **tested**: in the matrix of `tests/engines/transformers/test_layer_stage.py`, which compares with
  masks that hide the dropped tokens.
- **run**: so did `tools/support_layers.py` with a small random model of the class, with most of the
  calls above, in each step of generate().
- **refused**: it has layers with a sliding window or other than full attention, or none that are
  known.

The last column but one says it of sessions ([`otprune.watch`](watch.md)).

- **tested**: in the matrix of `tests/families/test_watch.py`: after each of several frames, every
  step of an answer has the logits of one prompt with the same kept tokens.
- **run**: `tools/support_watch.py` asked a small random model of the class about one frame, all of
  whose tokens are kept. The answer is that of the model without a session; and cached keys, moved
  to other positions, are those that the model computes there.
- **refused**: it has sliding windows or states instead of keys, image tokens that see each other in
  both directions, or a rotary embedding that is not known to be the only one.

| class | model type | verdict | one image | one video | inside the encoder | \
inside the language model | sessions | note |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""

HEADS = """
## Models that do not generate

Base models (what `AutoModel` gives), heads on them, and policies;
[what they are pruned for](policies.md).

- **tested** ({tested}): in `tests/families/test_heads.py` or `tests/families/test_policies.py`,
  against a model that generates or a reference built by hand.
- **run** ({ran}): `tools/support_heads.py` asked a small random model of the class. A base model
  gives, to the last bits, what the base model inside the class that generates gives, whose
  verdict is above; a head gives what its last layer makes of that.
- **not run** ({unrun}): accepted as the others are, but no small model of it was run here.

| class | what it is | verdict | note |
| --- | --- | --- | --- |
"""
# Tested in tests/families/test_heads.py and test_policies.py; also the base models of `TESTED`.
TESTED_HEADS = {
    "ColPaliForRetrieval",
    "ColQwen2ForRetrieval",
    "Gemma3ForSequenceClassification",
    "PI0ForConditionalGeneration",
    "ShieldGemma2ForImageClassification",
}


def classes() -> dict[str, list[str]]:
    """Class name to the model types that map to it."""
    found: dict[str, list[str]] = {}
    for model_type, names in NAMES.items():
        for name in [names] if isinstance(names, str) else names:
            if is_policy(getattr(transformers, name)):  # in the second table
                continue
            found.setdefault(name, []).append(model_type)
    return dict(sorted(found.items()))


def verdict(name: str, record: dict[str, Any]) -> tuple[str, str, str, str]:
    """Verdict, what makes one image, what makes one video, and a note."""
    model_class = getattr(transformers, name)
    able, why = support(model_class)
    if not able:
        return "refused", "", "", why.removeprefix(name).lstrip(": ")
    kind = family(model_class.config_class)
    image, video = GROUPINGS[kind.grouping], _video(model_class, kind)
    notes = [f'`positions="compact"`: {kind.positions}'] if kind.positions else []
    ran = record["classes"].get(name, {"outcome": "not run", "why": "new since the last sweep"})
    if ran["outcome"] == "wrong":
        raise ValueError(f"{name} is accepted, and went wrong in the sweep: {ran['why']}")
    if name in TESTED:
        return "tested", image, video, "; ".join(notes)
    if ran["outcome"] == "not run":
        releases, told = BROKEN.get(name, ((), ""))
        broken = record["transformers"].startswith(releases) if releases else False
        notes.insert(0, told if broken else ran["why"])
        return "works by mechanism, not run", image, video, "; ".join(notes)
    notes += _unanswered(ran.get("not", {}))
    return "works by mechanism, run", image, video, "; ".join(notes)


def stage(name: str, record: dict[str, Any]) -> str:
    """What is known of a selection inside the encoder; empty for a class that is refused anyway.

    Raises:
        ValueError: the class is accepted, and went wrong.
    """
    if not support(getattr(transformers, name))[0]:
        return ""
    made = record["classes"].get(name, {}).get("stage")
    if made is None:
        return "not run"
    if made["outcome"] == "wrong":
        raise ValueError(f"{name} with a selection inside its encoder went wrong: {made['why']}")
    words = made["outcome"]
    if words == "ran":
        words = "tested" if name in TESTED else "run"
    if made["encoder"] is not None:
        words += f", `{made['encoder']}`"
    if "several vision encoders" in made.get("why", ""):
        words = "refused, several encoders"
    if "all" in made.get("among", ""):
        words += ", among all"
    return words


def layers(name: str, record: dict[str, Any]) -> str:
    """What is known of a stage inside the language model; empty for a class that is refused anyway.

    Raises:
        ValueError: the class is accepted, and went wrong.
    """
    if not support(getattr(transformers, name))[0]:
        return ""
    made = record["classes"].get(name, {}).get("layers", {"outcome": "not run"})
    if made["outcome"] == "wrong":
        raise ValueError(f"{name} with a stage inside its model went wrong: {made['why']}")
    if made["outcome"] == "ran":
        return "tested" if name in TESTED else "run"
    return str(made["outcome"])


def sessions(name: str, record: dict[str, Any]) -> str:
    """What is known of sessions; empty for a class that is refused anyway.

    Raises:
        ValueError: the class is accepted, and went wrong.
    """
    if not support(getattr(transformers, name))[0]:
        return ""
    made = record["classes"].get(name, {}).get("watch", {"outcome": "not run"})
    if made["outcome"] == "wrong":
        raise ValueError(f"{name} in a session went wrong: {made['why']}")
    if made["outcome"] == "ran":
        return "tested" if name in TESTED | {"LlavaNextVideoForConditionalGeneration"} else "run"
    return str(made["outcome"])


def _video(model_class: Any, kind: Family) -> str:
    if "video" not in model_class.input_modalities:
        return ""
    if "get_video_features" not in encoders(model_class, model_class):
        return ""
    return {"video": "the whole", "frame": "each frame", "chunk": "each chunk"}[kind.video]


def _unanswered(calls: dict[str, str]) -> Iterator[str]:
    """Notes on calls that did not run."""
    if any(why.startswith("refused") for why in calls.values()):
        yield "refuses images that touch"
    for call in ("beams", "video beams", "video"):
        if call in calls:
            own = calls[call].startswith("unpruned")
            yield f"{call}: {'not without pruning either' if own else calls[call].split(':')[0]}"
    if any(why.startswith("took longer") for why in calls.values()):
        yield "not every call was run: too slow"


def table(record: dict[str, Any]) -> str:
    """The whole of docs/support.md for the installed transformers."""
    rows, counts = [], dict.fromkeys(("tested", "run", "not run", "refused"), 0)
    for name, types in classes().items():
        what, image, video, note = verdict(name, record)
        counts[what.rpartition(", ")[2]] += 1
        note = note.replace("|", "\\|").replace("<", "\\<")
        kinds = ", ".join(f"`{kind}`" for kind in types)
        inside = " | ".join(f(name, record) for f in (stage, layers, sessions))
        rows.append(f"| {name} | {kinds} | {what} | {image} | {video} | {inside} | {note} |\n")
    head = HEAD.format(
        version=transformers.__version__,
        total=len(rows),
        tested=counts["tested"],
        ran=counts["run"],
        unrun=counts["not run"],
        refused=counts["refused"],
        towers=textwrap.fill(", ".join(f"`{name}`" for name in TOWERS), 98, break_on_hyphens=False),
    )
    return head + "".join(rows) + heads(record)


def heads(record: dict[str, Any]) -> str:
    """The table of classes that do not generate, and the list of those that are refused."""
    rows, refused = [], dict[str, list[str]]()
    counts = dict.fromkeys(("tested", "run", "not run"), 0)
    for name, ran in record["heads"].items():
        if ran["outcome"] == "refused":
            refused.setdefault(ran["why"], []).append(f"`{name}`")
            continue
        cls = getattr(transformers, name)
        if not support(cls)[0]:
            raise ValueError(f"{name} ran in the sweep, and is refused: {support(cls)[1]}")
        if ran["outcome"] == "wrong":
            raise ValueError(f"{name} is accepted, and went wrong in the sweep: {ran['why']}")
        what, tested = _kind(cls)
        verdict = "run" if ran["outcome"] == "ran" else "not run"
        if tested or name in TESTED_HEADS:
            verdict = "tested"
        counts[verdict] += 1
        rows.append(
            f"| {name} | {what} | {verdict} | {ran['why'] if verdict == 'not run' else ''} |\n"
        )
    head = HEADS.format(tested=counts["tested"], ran=counts["run"], unrun=counts["not run"])
    told = [
        textwrap.fill(
            f"- {', '.join(names)}: {why}.", 98, subsequent_indent="  ", break_on_hyphens=False
        )
        for why, names in sorted(refused.items())
    ]
    return f"{head}{''.join(rows)}\nRefused, of those that see images and text:\n\n" + (
        "\n".join(told) + "\n"
    )


def _kind(cls: Any) -> tuple[str, bool]:
    """What a class that does not generate is, and whether the matrix has its base model."""
    if is_policy(cls):
        return "policy", True
    if head_of(cls) is not None:
        return f"head on {base_of(cls).__name__}", False
    whole = generative_of(cls).__name__
    return f"base model of {whole}", whole in TESTED


if __name__ == "__main__":
    TABLE.write_text(table(json.loads(RECORD.read_text())))
