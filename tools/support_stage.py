"""Try a selection inside the encoder on every class that otprune accepts, small and random.

    python -m tools.support_stage [part of a class name ...]

Writes what held to the entries `stage` of docs/support.json; tools/support_sweep.py writes the rest
and runs this too. That a selection inside an encoder is right is shown by tests/towers, for each
class of encoders by itself. Here the calls of tools/support_cases.py show that it reaches the
encoder of a whole model and that the rest of the model goes on as ever. Of each call is checked:

- a stage that keeps everything gives the very logits of a call without it;
- a stage that keeps half keeps half of every image, tile or frame;
- what enters the language model is what the encoder with the stage gives, less the rows of the
  dropped tokens, at the right positions; where the model's tokens are the encoder's, those of one
  cell are equal;
- the features of an image depend on the stage;
- generate() gives the logits of forward() on the prompt with the answer behind it.

Small models have two layers in their encoder; the selection is in the second.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
import transformers

from otprune import EncoderStage, OTPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers.encoded import encode_call
from otprune.engines.transformers.families import family
from otprune.engines.transformers.features import cells_of_images
from otprune.engines.transformers.towers import encoder_name, layers_of, tower_of
from tools import support_sweep as sweep
from tools.support_cases import Case, NotRunError, cases, video_cases
from tools.support_entries import write

HALF, WHOLE = EncoderStage(keep=0.5, after=1), EncoderStage(keep=1.0, after=1)


def check(model: Any, case: Case) -> str:
    """What a selector in front of the language model chooses among: "kept" or "all" tokens.

    Raises:
        NotRunError: the class cannot answer the call without a stage.
        AssertionError: what did not hold.
    """
    inputs = case.inputs
    scheme = "compact" if family(model.config).positions else "preserved"
    try:
        with prune(model, OTPrune(1.0), scheme):
            plain, steps = sweep._answer(model, inputs)
            logits = model(**inputs).logits
    except Exception as error:
        raise NotRunError("without a stage", repr(error)) from error
    with prune(model, OTPrune(1.0), scheme, encoder=WHOLE):
        assert torch.equal(model(**inputs).logits, logits), "a stage of 1.0: other logits"
    apart = sweep._apart(model, inputs, plain, steps)
    if apart > 10 * sweep.CLOSE:
        raise NotRunError("without a stage", f"generate() is {apart:.1e} from forward()")

    call = encode_call(model, inputs, HALF)
    for one in (cells for calls in call.calls for cells in calls.cells):
        assert len(one.kept) == HALF.method.count(len(one.cell)), "another number kept"
    usual = encode_call(model, inputs).visual
    moved = [
        not torch.equal(a.features, b.features) for a, b in zip(usual, call.visual, strict=True)
    ]
    assert all(moved), "the stage changes nothing"
    plans = cells_of_images(call.calls, call.images.values())

    every = prune_inputs(model, inputs, OTPrune(1.0), scheme, encoder=HALF)
    positions = {"position_ids": sweep._generated_positions(model, inputs)}
    full = sweep.entering(model, every | positions)
    cut = prune_inputs(model, inputs, sweep.SELECTOR, scheme, encoder=HALF)
    with prune(model, sweep.SELECTOR, scheme, encoder=HALF) as run:
        ids, pruned_steps = sweep._answer(model, inputs)
        items = list(run.last or [])
        difference = sweep._apart(model, inputs, ids, pruned_steps)
    assert [(x.row, x.modality, x.before) for x in items] == [
        (row, modality, len(columns)) for row, modality, columns in case.found
    ], "other images"
    keep = inputs["attention_mask"].bool().clone()
    for item, (row, _, columns) in zip(items, case.found, strict=True):
        at = torch.tensor(columns)
        keep[row, at] = False
        keep[row, at[item.indices]] = True
    sweep._compare_entering(full, sweep.entering(model, cut), keep, scheme)
    assert difference < sweep.CLOSE + 2 * apart, f"generate() {difference:.1e} from forward()"
    return "all" if None in plans else "kept"


def outcome(name: str) -> dict[str, Any]:
    """What became of the stage in one class.

    Returns:
        `outcome`: "ran", "refused", "not run" or "wrong", the others than "ran" with `why`;
        `encoder`: the class of the encoder, None if not known; with "ran" also `calls`, the names
        of the calls that held, and `among`, "kept" or "all".
    """
    try:
        model = sweep.build(name)
    except NotRunError as error:
        return {"outcome": "not run", "encoder": _encoder_on_meta(name), "why": error.why}
    found: dict[str, Any] = {"encoder": _named(model)}
    try:
        layers = layers_of(*tower_of(model))
    except UnsupportedError as error:
        return {"outcome": "refused", **found, "why": str(error)}
    found["encoder"] = type(tower_of(model)[0]).__name__
    if len(layers) < 2:
        return {"outcome": "not run", **found, "why": "its small encoder has one layer"}
    sweep.start_alarm()
    held: list[str] = []
    among: set[str] = set()
    call = "one"
    try:
        with torch.no_grad():
            for case in _cases(model):
                call = case.name
                try:
                    among.add(check(model, case))
                    held.append(call)
                except NotRunError as error:
                    if call == "one":
                        return {"outcome": "not run", **found, "why": error.why}
    except sweep.TooLongError:
        if not held:
            return {"outcome": "not run", **found, "why": "too slow"}
    except NotRunError as error:
        return {"outcome": "not run", **found, "why": error.why}
    except UnsupportedError as error:
        return {"outcome": "refused", **found, "why": f"{call}: {error}"}
    except Exception as error:
        return {"outcome": "wrong", **found, "why": f"{call}: {error!r}"}
    finally:
        sweep.stop_alarm()
    return {"outcome": "ran", **found, "calls": held, "among": "/".join(sorted(among))}


def _cases(model: Any) -> Iterator[Case]:
    """Those of images, without the ones that are refused in some classes, and those of videos."""
    yield from (case for case in cases(model) if not case.touching)
    if "video" in model.input_modalities and hasattr(model.base_model, "get_video_features"):
        try:
            yield from video_cases(model)
        except NotRunError:
            return


def _encoder_on_meta(name: str) -> str | None:
    """The class of the encoder of a class that is not built small; None if not known."""
    model_class = getattr(transformers, name)
    try:
        with torch.device("meta"):
            return _named(model_class._from_config(model_class.config_class()))
    except Exception:
        return None


def _named(model: Any) -> str | None:
    name = encoder_name(model)
    return None if name == "none was found" else name


if __name__ == "__main__":
    write("stage", outcome, sys.argv[1:])
