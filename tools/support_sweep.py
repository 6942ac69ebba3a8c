"""Run every class that otprune accepts, small and random; write what held to docs/support.json.

    python -m tools.support_sweep [part of a class name ...]

The calls are those of tools/support_cases.py: one image, two, two that touch, a left-padded batch
with a row that has none, an image of several tiles, videos. Of each is checked:

- the images and videos that are found are those that are there;
- keep=1.0 gives the very answer and logits of the unpruned model;
- with keep=0.5, in every position scheme that the class honours, what enters the language model is
  what enters it unpruned, less the rows of the dropped tokens, at the right positions;
- generate() gives the logits of forward() on the prompt with the answer behind it, greedily and
  with two beams.

A class that cannot be built small from its default config, or a call that the class cannot answer
without pruning, is noted with the reason.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import transformers
from torch import Tensor

from otprune import DivPrune, OTPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers import support
from otprune.engines.transformers.families import family
from tools.small_models import small
from tools.support_cases import Case, NotRunError, cases, video_cases
from tools.support_table import RECORD, classes

SECONDS = 240  # of one class
STEPS = 3
CLOSE = 2e-4
SELECTOR = DivPrune(keep=0.5)


class TooLongError(BaseException):
    """Raised by the alarm; a BaseException, so that no handler takes it for the model's error."""


def entering(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `model(**inputs)` hands to its language model."""
    seen: dict[str, Any] = {}
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    if not isinstance(seen.get("inputs_embeds"), Tensor):
        raise NotRunError("its language model is not handed inputs_embeds by name", type(decoder))
    return seen


def check(model: Any, case: Case) -> str | None:
    """None if all checks of a call held, or why two images that touch are refused.

    Raises:
        NotRunError: the class cannot answer the call without pruning.
        AssertionError: what did not hold.
    """
    inputs = case.inputs
    try:
        plain, steps = _answer(model, inputs)
        logits = model(**inputs).logits
    except Exception as error:
        raise NotRunError("unpruned", repr(error)) from error
    try:
        with prune(model, OTPrune(keep=1.0)) as run:
            assert torch.equal(_answer(model, inputs)[0], plain), "keep=1.0: other answer"
            found = [(item.row, item.modality, item.before) for item in run.last or []]
            assert torch.equal(model(**inputs).logits, logits), "keep=1.0: other logits"
    except UnsupportedError as error:
        if case.touching:
            return str(error)
        raise
    apart = _apart(model, inputs, plain, steps)
    if apart > 10 * CLOSE:
        raise NotRunError("unpruned", f"generate() is {apart:.1e} from forward()")
    wanted = [(row, modality, len(columns)) for row, modality, columns in case.found]
    assert found == wanted, f"found {found} instead of {wanted}"

    full = entering(model, inputs | {"position_ids": _generated_positions(model, inputs)})
    schemes = ["compact"] if family(model.config).positions else ["compact", "preserved"]
    for scheme in schemes:
        with prune(model, SELECTOR, scheme) as run:
            ids, pruned_steps = _answer(model, inputs)
            items = list(run.last or [])
        keep = inputs["attention_mask"].bool().clone()
        for item, (row, _, columns) in zip(items, case.found, strict=True):
            at = torch.tensor(columns)
            keep[row, at] = False
            keep[row, at[item.indices]] = True
        assert int(keep.sum()) < int(inputs["attention_mask"].sum()), "nothing was dropped"
        cut = entering(model, prune_inputs(model, inputs, SELECTOR, scheme))
        _compare_entering(full, cut, keep, scheme)
        with prune(model, SELECTOR, scheme):
            difference = _apart(model, inputs, ids, pruned_steps)
        assert difference < CLOSE + 2 * apart, (
            f"{scheme}: generate() {difference:.1e} from forward(), {apart:.1e} unpruned"
        )
    return None


def check_beams(model: Any, case: Case) -> None:
    """Two beams score what forward() gives their ids; raises as `check` does."""
    inputs = case.inputs
    scheme = "compact" if family(model.config).positions else "preserved"
    try:
        apart = _beams_apart(model, inputs)
    except Exception as error:
        raise NotRunError("unpruned", repr(error)) from error
    with prune(model, SELECTOR, scheme):
        difference = _beams_apart(model, inputs)
    if difference > CLOSE < apart:
        raise NotRunError("unpruned", f"beams score {apart:.1e} from forward()")
    assert difference < CLOSE, f"beams: {difference:.1e} from forward()"


def _answer(model: Any, inputs: dict[str, Any], **settings: Any) -> tuple[Tensor, Tensor]:
    """Ids behind the prompt, `(B, t)`, and the logits of each, `(B, t, V)`."""
    out = model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    return out.sequences[:, inputs["input_ids"].shape[1] :], torch.stack(out.logits, dim=1)


def _apart(model: Any, inputs: dict[str, Any], ids: Tensor, steps: Tensor) -> float:
    """How far the logits of generate() are from those of forward()."""
    logits = model(**_followed(model, inputs, ids)).logits[:, -len(ids[0]) - 1 : -1]
    return float((logits - steps).abs().max())


def _beams_apart(model: Any, inputs: dict[str, Any]) -> float:
    out = model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        num_beams=2,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    logits = model(**_followed(model, inputs, ids)).logits[:, -len(ids[0]) - 1 : -1].float()
    scores = logits.log_softmax(dim=-1).gather(2, ids[..., None]).sum(dim=(1, 2))
    return float((scores - out.sequences_scores).abs().max())


def _followed(model: Any, inputs: dict[str, Any], ids: Tensor) -> dict[str, Any]:
    """A call with an answer behind its prompt; PaliGemma has a type for what follows."""
    answer = int(model.config.model_type == "paligemma")
    new = inputs | {"input_ids": torch.cat([inputs["input_ids"], ids], dim=1)}
    for name, fill in (
        ("attention_mask", 1),
        ("token_type_ids", answer),
        ("mm_token_type_ids", 0),
        ("moe_mm_token_type_ids", 0),
    ):
        if name in inputs:
            new[name] = torch.cat([inputs[name], torch.full_like(ids, fill)], dim=1)
    return new


def _compare_entering(full: dict[str, Any], cut: dict[str, Any], keep: Tensor, scheme: str) -> None:
    for b in range(len(keep)):
        n = int(keep[b].sum())
        embeds = full["inputs_embeds"][b][keep[b]], cut["inputs_embeds"][b, -n:]
        # Llama 4 projects what was kept, which rounds otherwise.
        same = torch.allclose(*embeds, rtol=1e-5, atol=1e-5)
        assert same, f"{scheme}: other embeddings"
        a, c = full.get("position_ids"), cut.get("position_ids")
        if a is None or c is None:
            continue
        a, c = (p[-3:, b] if p.ndim == 3 else p[b][None] for p in (a, c))
        wanted = torch.arange(n).expand(len(a), n) if scheme == "compact" else a[:, keep[b]]
        same = torch.equal(c[:, -n:] - c[:, -n, None], wanted - wanted[:, :1])
        assert same, f"{scheme}: other positions"


def _generated_positions(model: Any, inputs: dict[str, Any]) -> Tensor:
    others = {k: v for k, v in inputs.items() if k != "input_ids"}
    return model._prepare_position_ids_for_generation(inputs["input_ids"], others)


def heeds_positions(model: Any) -> bool:
    """Whether positions that are moved apart change logits, alike in forward() and generate().

    Raises:
        NotRunError: the class, made small, answers no text either.
    """
    try:
        return _heeds_positions(model)
    except Exception as error:
        raise NotRunError("unpruned", repr(error)) from error


def _heeds_positions(model: Any) -> bool:
    ids = torch.randint(10, 200, (1, 24), generator=torch.Generator().manual_seed(3))
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if name in inspect.signature(model.forward).parameters:
            inputs[name] = torch.zeros_like(ids)
    places = _generated_positions(model, dict(inputs)).clone()
    moved = places.clone()
    moved[..., 12:] += 37
    if moved.ndim == 3 and len(moved) == 4:  # the index in the text, which reaches no attention
        moved[0] = places[0]
    still = model(**inputs, position_ids=places).logits[:, -1]
    shifted = model(**inputs, position_ids=moved.clone()).logits[:, -1]
    _, steps = _answer(model, inputs | {"position_ids": moved.clone()})
    spread = float(still.std())
    moves = float((shifted - still).abs().max()) > 1e-4 * spread
    return moves and float((steps[:, 0] - shifted).abs().max()) < 1e-4 * spread


def outcome(name: str) -> dict[str, Any]:
    """What became of one class.

    Returns:
        `outcome`: "ran", "not run" or "wrong", the last two with `why`, and `detail`; with "ran"
        also `calls`, the names of the calls that held, and `not`, why the others were not
        answered, by name.
    """
    start_alarm()
    held: list[str] = []
    without: dict[str, str] = {}
    call = "one"
    try:
        with torch.no_grad():
            model = build(name)
            for call, run in _calls(model):
                try:
                    refused = run()
                except NotRunError as error:
                    if call == "one":
                        why = "made small, it does not run unpruned"
                        raise NotRunError(why, error.detail) from error
                    without[call] = f"{error.why}: {error.detail}"
                    continue
                except AssertionError as error:
                    raise AssertionError(f"{call}: {error}") from error
                if refused is None:
                    held.append(call)
                else:
                    without[call] = f"refused: {refused}"
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why, "detail": error.detail}
    except TooLongError as error:
        if not held:
            return {"outcome": "not run", "why": str(error)}
        without[call] = str(error)
    except Exception as error:
        return {"outcome": "wrong", "why": repr(error)}
    finally:
        stop_alarm()
    return {"outcome": "ran", "calls": held, **({"not": without} if without else {})}


def build(name: str) -> Any:
    """A small model of the class; raises NotRunError where there is none."""
    try:
        return small(getattr(transformers, name))
    except ImportError as error:
        missing = re.search(r"requires the (\w+) library", str(error))
        raise NotRunError(f"needs {missing[1] if missing else 'more'}", error) from error
    except NotRunError:
        raise
    except Exception as error:
        raise NotRunError("its default config does not shrink", repr(error)) from error


def _calls(model: Any) -> Iterator[tuple[str, Callable[[], str | None]]]:
    """Names of calls, and what checks them."""
    for case in cases(model):
        yield case.name, lambda case=case: check(model, case)
        if case.name == "batch":
            yield "beams", lambda case=case: check_beams(model, case)
    yield "positions", lambda: _check_positions(model)
    if "video" in model.input_modalities and hasattr(model.base_model, "get_video_features"):
        try:
            videos = list(video_cases(model))
        except NotRunError as error:
            yield "video", _raising(error)
            return
        for case in videos:
            yield case.name, lambda case=case: check(model, case)
            if case.name == "video batch":
                yield "video beams", lambda case=case: check_beams(model, case)


def _raising(error: Exception) -> Callable[[], str | None]:
    def run() -> str | None:
        raise error

    return run


def _check_positions(model: Any) -> None:
    declared = family(model.config).positions is None
    heeds = heeds_positions(model)
    assert heeds == declared, f"heeds position_ids: {heeds}, and declared is {declared}"


def start_alarm() -> None:
    """Raise TooLongError when the time of a class is over."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)


def stop_alarm() -> None:
    """End what `start_alarm` began."""
    signal.alarm(0)


def _too_long(*_: object) -> None:
    raise TooLongError(f"took longer than {SECONDS} seconds")


def main(parts: list[str]) -> None:
    from tools import support_layers, support_stage, support_watch  # which import this module

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found = record.get("classes", {}) if parts else {}
    for name in classes():
        if parts and not any(part.lower() in name.lower() for part in parts):
            continue
        if not support(getattr(transformers, name))[0]:
            found.pop(name, None)
            continue
        found[name] = outcome(name)
        found[name]["stage"] = support_stage.outcome(name)
        found[name]["layers"] = support_layers.outcome(name)
        found[name]["watch"] = support_watch.outcome(name)
        told = found[name].get("why") or " ".join(found[name]["calls"])
        print(f"{name:48s} {found[name]['outcome']:8s} {told}", flush=True)
        for call, why in found[name].get("not", {}).items():
            print(f"{'':10s} not {call}: {why}", flush=True)
    record |= {"transformers": transformers.__version__, "classes": dict(sorted(found.items()))}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main(sys.argv[1:])
