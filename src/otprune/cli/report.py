"""What the commands print: tables, or a dictionary for `--json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from rich.console import Group, RenderableType
from rich.text import Text

from otprune import __version__
from otprune.asking.answers import Asked, Side
from otprune.asking.choices import Selected
from otprune.asking.drawing import Grid, Row
from otprune.asking.images import Photo
from otprune.asking.stages import InEncoder
from otprune.asking.units import in_bytes, in_flops, in_seconds
from otprune.cli.console import Cell, Figures, Words
from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.stage import EncoderStage
from otprune.keep import Auto
from otprune.measures.mass import Distance
from otprune.selectors import Selection, Selector
from otprune.selectors.named import name_of
from otprune.selectors.settings import shown

FORMULA = "layers * (4 n d^2 + 2 n^2 d + 2 n d f)"
LABEL, ANSWER = 24, 14  # columns
DISTANCES = {
    "gaussian_w2": "W2^2 Gaussian",
    "exact_w2": "W2^2 exact, uniform mass",
    "free_mass_w2": "W2^2 exact, free mass",
}


@dataclass(frozen=True)
class Weighing:
    """How the kept tokens are used in the language model."""

    merge: bool
    mass: str
    alpha: float
    distance: Distance

    def words(self) -> list[str]:
        """Words for headings and captions; empty without merging, mass and distance."""
        words = ["merged"] if self.merge else []
        strength = f" x {self.alpha:g}" * (self.alpha != 1)
        if self.mass != "none":
            words.append(f"mass {self.mass}" + strength)
        if self.distance:
            words.append("distance" + " auto" * (self.distance == "auto") + strength)
        return words

    def meaning(self) -> str:
        """What the numbers on the overlay's kept patches mean; empty where there are none."""
        weighs = self.mass == "token" and self.alpha > 0
        if self.merge:
            more = ", and its weight" if weighs and self.alpha == 1 else ""
            return "tokens merged into this one" + more
        if weighs:
            return (
                "its weight in attention, in tokens"
                if self.alpha == 1
                else "tokens that it stands for"
            )
        return ""


def _method(selector: Selector) -> str:
    """The name of a method in headings; of a user's own, that of the class."""
    return name_of(selector).rpartition(":")[2]


def headline(model: str, selector: Selector, *extra: str) -> Words:
    """The first line: model, method and settings."""
    own = [f"{name}={value}" for name, value in shown(selector).items() if value is not None]
    keep = selector.keep
    rule = f"auto, {_goal(keep)}" if isinstance(keep, Auto) else f"{keep}"
    method = ", ".join([f"keep={rule}", *own, *extra])
    return Words(Text.assemble((model, "bold"), "  ", (_method(selector), "bold"), f" ({method})"))


def _goal(rule: Auto) -> str:
    return f"{rule.measure} {'<=' if rule.measure == 'distance' else '>='} {rule.target}"


def asked_table(asked: Asked, question: str, selector: Selector) -> RenderableType:
    """The two answers about one photograph, side by side."""
    full, cut = asked.full, asked.pruned
    rows: list[Sequence[Cell]] = [
        ("answer", Text(full.answer, "bold"), Text(cut.answer, "bold"), ""),
        ("visual tokens", str(full.tokens), str(cut.tokens), _left(cut, full, "tokens")),
        *((f"  from layer {some.layer} on", "", str(some.visual), "") for some in asked.layers),
        ("prompt tokens", str(full.prompt_tokens), str(cut.prompt_tokens), ""),
        (
            "prefill FLOPs (formula)",
            _or_dash(full.prefill_flops, in_flops),
            _or_dash(cut.prefill_flops, in_flops),
            _left(cut, full, "prefill_flops"),
        ),
        (
            "KV cache of the prompt",
            _or_dash(full.cache_bytes, in_bytes),
            _or_dash(cut.cache_bytes, in_bytes),
            _left(cut, full, "cache_bytes"),
        ),
        (
            "time to first token",
            in_seconds(full.first_token_seconds),
            in_seconds(cut.first_token_seconds),
            _left(cut, full, "first_token_seconds"),
        ),
        ("  of it the selector", "-", in_seconds(asked.selector_seconds), ""),
    ]
    if asked.encoder is not None:
        rows.append(("  and inside the encoder", "-", in_seconds(asked.encoder.seconds), ""))
    table = Figures(
        ("", "all tokens", _method(selector), "left"),
        rows,
        wraps=(1, 2),
        styles=("", "", "", "dim"),
        least=(LABEL, ANSWER, ANSWER),
    )
    title = _title(asked.photo, asked.note)
    title.append(f'  "{question}"')
    return Group(Words(title), table, _selection(asked.selection, selector, asked.encoder))


def selected_table(selected: Selected, selector: Selector) -> RenderableType:
    """What was kept of one photograph."""
    kept = selected.selection.indices.numel()
    share = f"  {kept / selected.before:.1%}"
    shares = (selected.selection.masses.cpu() * selected.before).sort().values
    rows: list[Sequence[Cell]] = [
        ("visual tokens", Text.assemble(f"{selected.before} -> {kept}", (share, "dim"))),
        ("selecting", in_seconds(selected.selector_seconds)),
        ("encoding, once", in_seconds(selected.encoder_seconds)),
        (
            "a kept token stands for",
            f"{shares[0]:.0f} to {shares[-1]:.0f} tokens, median {shares[len(shares) // 2]:.0f}",
        ),
    ]
    title = _title(selected.photo, selected.note)
    found = _selection(selected.selection, selector, selected.encoder)
    return Group(Words(title), Text(), _facts(rows), found)


def _title(photo: Photo, note: str) -> Text:
    return Text.assemble((photo.label, "bold cyan"), (f" ({note})" if note else "", "cyan"))


def _facts(rows: Sequence[Sequence[Cell]]) -> Figures:
    return Figures(("", ""), rows, wraps=(1,), least=(LABEL + 1,))


def asked_row(
    asked: Asked, grid: Grid, image: Image, title: str, selector: Selector, how: Weighing
) -> Row:
    """One photograph's row in the overlay, with its answers."""
    full, cut = asked.full, asked.pruned
    return Row(
        image=image,
        grid=grid,
        kept=asked.selection.indices.tolist(),
        title=title,
        captions=(
            (f"{_named(asked.photo, asked.note)}: all {full.tokens} tokens", full.answer),
            (_kept(selector, cut.tokens, full.tokens, *how.words()), cut.answer),
        ),
        stands=_stands(asked.selection, full.tokens) if how.meaning() else (),
    )


def selected_row(selected: Selected, grid: Grid, image: Image, selector: Selector) -> Row:
    """One photograph's row in the overlay."""
    kept = selected.selection.indices.tolist()
    return Row(
        image=image,
        grid=grid,
        kept=kept,
        title="",
        captions=(
            (f"{_named(selected.photo, selected.note)}: all {selected.before} tokens", ""),
            (_kept(selector, len(kept), selected.before), ""),
        ),
    )


def _named(photo: Photo, note: str) -> str:
    return f"{photo.short} ({note})" if note else photo.short


def _kept(selector: Selector, after: int, before: int, *how: str) -> str:
    share = f"{_method(selector)} keeps {after} of {before} ({after / before:.1%})"
    return ", ".join([share, *how])


def _stands(selection: Selection, before: int) -> list[float]:
    return [float(mass) * before for mass in selection.masses]


def notes(timed: bool, merge: bool, preset: bool = False, staged: bool = False) -> Words:
    """Explanations of the figures in the tables."""
    lines = [
        "W2^2: squared 2-Wasserstein distance between all tokens and the kept ones, divided by "
        "the mean squared token norm" + (", before merging." if merge else ".")
    ]
    if staged:
        lines.append(
            "All tokens are those of the encoder without a selection inside it. A method's "
            "certificate would not cover what the encoder dropped."
        )
    if preset:
        lines.append(
            "recommended also merges and weighs the kept tokens in a language model, which does "
            "not run here; which tokens are kept is the same."
        )
    if timed:
        lines.append(
            f"FLOPs: {FORMULA}, n prompt tokens. Times: median after a warm-up, from pixels to the "
            "first token (encoder, selector, prefill)."
        )
    return Words(Text("\n".join(lines), "dim"))


def _selection(
    selection: Selection, selector: Selector, encoder: InEncoder | None
) -> RenderableType:
    rows: list[Sequence[Cell]] = []
    if encoder is not None:
        rows.append(("encoder", str(encoder)))
    if isinstance(selector.keep, Auto):
        goal = f"target {_goal(selector.keep)}"
        if selection.reached is None:
            rows.append(("auto", f"{goal}, among the tokens that the encoder kept"))
        else:
            rows.append(("auto", f"{selection.reached:.4f}, {goal}"))
    for name, label in DISTANCES.items():
        value = getattr(selection, f"{name}_relative")
        shown = "needs POT: pip install 'otprune[exact]'" if value is None else f"{value:.4f}"
        rows.append((label, shown))
    if encoder is not None:
        rows.append(("certificate", Text("none with a selection inside the encoder", "dim")))
    elif selection.certificate is None:
        rows.append(("certificate", Text("none for this method", "dim")))
    else:
        proved = f"{selection.certificate:.3f} of the best possible objective, at least"
        rows.append(("certificate", proved))
    return Group(_facts(rows), Text())


def head_json(model: str, selector: Selector, overlay: Path | None) -> dict[str, Any]:
    """The entries of `--json` other than `images`."""
    return {
        "otprune": __version__,
        "model": model,
        "method": name_of(selector),
        "keep": asdict(selector.keep) if isinstance(selector.keep, Auto) else selector.keep,
        "settings": shown(selector),
        "overlay": None if overlay is None else str(overlay),
    }


def stage_json(stage: EncoderStage | None) -> dict[str, Any]:
    """The options of the selection inside the encoder, null without one."""
    return {
        "encoder_keep": None if stage is None else stage.keep,
        "encoder_after": None if stage is None else stage.after,
    }


def stage_words(stage: EncoderStage | None) -> list[str]:
    """The same as words for the headline."""
    return [] if stage is None else [f"encoder keep={stage.keep}, after={stage.after}"]


def layers_json(stage: LayerStage | None) -> dict[str, Any]:
    """The options of the stage inside the language model, null without one."""
    return {
        "layer_rank": None if stage is None else stage.rank,
        "layer_after": None if stage is None else list(stage.cuts),
        "layer_keep": None if stage is None else list(stage.keeps),
    }


def layers_words(stage: LayerStage | None) -> list[str]:
    """The same as words for the headline."""
    if stage is None:
        return []
    words = f"layers {stage.rank}, after={_list(stage.cuts)}"
    return [words + f", keep={_list(stage.keeps)}" * bool(stage.keeps)]


def _list(numbers: Sequence[float | int]) -> str:
    return ",".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in numbers)


def asked_json(asked: Asked) -> dict[str, Any]:
    """One entry of `images` in `otprune ask --json`."""
    return {
        "image": asked.photo.name,
        "note": asked.note,
        "positions": asked.positions,
        "unpruned": _side_json(asked.full),
        "pruned": {**_side_json(asked.pruned), "selector_seconds": asked.selector_seconds},
        "encoder": _encoder_json(asked.encoder),
        "layers": [
            {"layer": cut.layer, "visual_tokens": cut.visual, "prompt_tokens": cut.prompt}
            for cut in asked.layers
        ],
        **_selection_json(asked.selection),
    }


def selected_json(selected: Selected) -> dict[str, Any]:
    """One entry of `images` in `otprune select --json`."""
    return {
        "image": selected.photo.name,
        "note": selected.note,
        "tokens_before": selected.before,
        "tokens_after": selected.selection.indices.numel(),
        "encoder_seconds": selected.encoder_seconds,
        "selector_seconds": selected.selector_seconds,
        "encoder": _encoder_json(selected.encoder),
        **_selection_json(selected.selection),
    }


def _encoder_json(encoder: InEncoder | None) -> dict[str, Any] | None:
    if encoder is None:
        return None
    return {
        "tokens_before": encoder.before,
        "tokens_after": encoder.after,
        "layer": encoder.layer,
        "layers": encoder.layers,
        "selector_seconds": encoder.seconds,
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "answer": side.answer,
        "visual_tokens": side.tokens,
        "prompt_tokens": side.prompt_tokens,
        "prefill_flops": side.prefill_flops,
        "first_token_seconds": side.first_token_seconds,
        "kv_cache_bytes": side.cache_bytes,
    }


def _selection_json(selection: Selection) -> dict[str, Any]:
    return {
        "indices": selection.indices.tolist(),
        "masses": selection.masses.tolist(),
        "value": selection.value,
        "bound": selection.bound,
        "certificate": selection.certificate,
        "reached": selection.reached,
        "distances": {
            name: {
                "squared": getattr(selection, name),
                "relative": getattr(selection, f"{name}_relative"),
            }
            for name in DISTANCES
        },
    }


def _left(cut: Side, full: Side, name: str) -> str:
    """The pruned figure as a share of the unpruned one."""
    whole, part = getattr(full, name), getattr(cut, name)
    return "" if not whole or part is None else f"{part / whole:.1%}"


def _or_dash(value: float | None, write: Callable[[float], str]) -> str:
    return "-" if value is None else write(value)
