"""Try a session (`otprune.watch`) on every class that otprune accepts, small and random.

    python -m tools.support_watch [part of a class name ...]

Writes what held to the entries `watch` of docs/support.json; tools/support_sweep.py writes the rest
and runs this too. A session that keeps every token of one frame gives, in each step of an answer,
the logits that the model itself gives on the same prompt; and a cached key of the first layer,
moved to another position, is the key that the model computes there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor

from otprune import GridPrune, UnsupportedError, watch
from otprune.engines.transformers.watching import language
from otprune.engines.transformers.watching.rotation import KeyRotation
from tools import support_sweep as sweep
from tools.support_cases import TEXT, Case, NotRunError, cases
from tools.support_entries import write

STEPS = 3


class CaseWording:
    """The words of a case with one image: what is before it, the image, what is behind it."""

    def __init__(self, case: Case) -> None:
        self.tokenizer = self
        ((_, _, columns),) = case.found
        ids = case.inputs["input_ids"]
        self._before = ids[0, : columns[0]].tolist()
        self._behind = ids[0, columns[-1] + 1 :].tolist()
        inside = slice(columns[0], columns[-1] + 1)
        self._frame = {
            name: x[:, inside] if isinstance(x, Tensor) and x.shape == ids.shape else x
            for name, x in case.inputs.items()
        }

    def decode(self, ids: Tensor, skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids.tolist()))

    def opening(self) -> list[int]:
        return self._before

    def frame(self, images: Sequence[Image], times: Sequence[float]) -> dict[str, Any]:
        return self._frame

    def question(self, text: str) -> list[int]:
        return self._behind

    def reopening(self, text: str) -> list[int]:
        return [TEXT]


class _Recorder(LogitsProcessor):
    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logits.append(scores[0].clone())
        return scores


@torch.no_grad()
def check(model: Any, case: Case) -> None:
    """Raises as `support_sweep.check` does."""
    recorder = _Recorder()
    with watch(model, CaseWording(case), GridPrune(1.0)) as session:
        session.see(torch.zeros(8, 8, 3), time=0.0)
        text = session.ask(
            "What?",
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            logits_processor=[recorder],
        )
    answer = torch.tensor([[int(x) for x in text.split()]])
    ids, steps = sweep._answer(model, case.inputs)
    assert torch.equal(ids[:, :STEPS], answer), "another answer"
    if not recorder.logits:  # a generate() of the class's own, without the caller's processors
        return
    found, wanted = torch.stack(recorder.logits), steps[0][:STEPS]
    there = found.isfinite() & wanted.isfinite()
    apart = float((found - wanted)[there].abs().max())
    assert apart < 10 * sweep.CLOSE, f"{apart:.1e} from the model's own answer"


@torch.no_grad()
def check_keys(model: Any) -> None:
    """Keys of the first layer depend on nothing but the token and its position."""
    axes = 3 if language.has_mrope(model) else 1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(TEXT, TEXT + 9, (8,), generator=generator)
    start, shift = torch.randint(0, 90, (2, axes, 8), generator=generator)

    def keys(positions: Tensor) -> list[Tensor]:
        cache = DynamicCache()
        language.prefill(model, ids, positions, cache)
        return [layer.keys for layer in cache.layers]

    moved, wanted = KeyRotation(model)(keys(start), shift)[0], keys(start + shift)[0]
    apart = float((moved - wanted).abs().max() / wanted.abs().max())
    assert apart < sweep.CLOSE, f"moved keys are {apart:.1e} from keys computed there"


def outcome(name: str) -> dict[str, Any]:
    """What became of a session in one class.

    Returns:
        `outcome`: "ran", "refused", "not run" or "wrong", the others than "ran" with `why`.
    """
    try:
        model = sweep.build(name)
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why}
    sweep.start_alarm()
    try:
        check(model, next(iter(cases(model))))
        check_keys(model)
    except sweep.TooLongError:
        return {"outcome": "not run", "why": "too slow"}
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why}
    except UnsupportedError as error:
        return {"outcome": "refused", "why": str(error)}
    except Exception as error:
        return {"outcome": "wrong", "why": repr(error)}
    finally:
        sweep.stop_alarm()
    return {"outcome": "ran"}


if __name__ == "__main__":
    write("watch", outcome, sys.argv[1:])
