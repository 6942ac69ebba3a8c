"""Try a stage inside the language model on every class that otprune accepts, small and random.

    python -m tools.support_layers [part of a class name ...]

Writes what held to the entries `layers` of docs/support.json; tools/support_sweep.py writes the
rest and runs this too. Of each call of tools/support_cases.py is checked, for two ranks: a stage
that keeps half gives, in each step of generate(), the logits that the whole model gives on prompt
and answer if the masks of the layers behind the cut hide the dropped tokens.

The cut is behind the first layer; most small models have two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from otprune import GridPrune, LayerStage, UnsupportedError, prune
from otprune.engines.common.arguments import named
from otprune.engines.transformers import Run
from tools import support_stage
from tools import support_sweep as sweep
from tools.support_cases import Case, NotRunError
from tools.support_entries import write

ALL = GridPrune(1.0)


def check(model: Any, case: Case) -> None:
    """Raises as `support_sweep.check` does."""
    inputs = case.inputs
    try:
        with prune(model, ALL):
            ids, steps = sweep._answer(model, inputs)
            apart = sweep._apart(model, inputs, ids, steps)
    except Exception as error:
        raise NotRunError("without a stage", repr(error)) from error
    if apart > 10 * sweep.CLOSE:
        raise NotRunError("without a stage", f"generate() is {apart:.1e} from forward()")
    for rank in ("fastv", "pyramiddrop"):
        with prune(model, ALL, layers=LayerStage(1, 0.5, rank)) as run:
            ids, steps = sweep._answer(model, inputs)
        gone = _dropped(run, inputs)
        assert gone.any(), "nothing was dropped"
        with _hidden(model, gone), prune(model, ALL):
            difference = sweep._apart(model, inputs, ids, steps)
        assert difference < sweep.CLOSE + 2 * apart, f"{rank}: {difference:.1e} from hidden keys"


def _dropped(run: Run, inputs: dict[str, Any]) -> Tensor:
    """`(B, S)` bool: the tokens of the prompt that layers behind the cut lack."""
    (cut,) = run.layers
    assert run.columns is not None
    columns = run.columns.gather(1, cut.columns.clamp(min=0))
    gone = inputs["attention_mask"].bool()
    for row, there in enumerate(cut.columns >= 0):
        gone[row, columns[row][there]] = False
    return gone


@contextmanager
def _hidden(model: Any, gone: Tensor) -> Iterator[None]:
    """Inside, the masks of layers behind the cut hide tokens of the prompt."""

    def hide(layer: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = named(layer, args, kwargs)
        n, mask = given["hidden_states"].shape[1], given.get("attention_mask")
        if mask is None:
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
        mask = mask.expand(len(gone), *mask.shape[1:]).clone()
        hidden = torch.nn.functional.pad(gone, (0, n - gone.shape[1]))[:, None, None]
        if mask.dtype == torch.bool:
            mask = mask & ~hidden | torch.eye(n, dtype=torch.bool)
        else:
            mask = mask.masked_fill(hidden, torch.finfo(mask.dtype).min)
        return (), given | {"attention_mask": mask}

    layers = list(model.get_decoder().layers)[1:]
    hooks = [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def outcome(name: str) -> dict[str, Any]:
    """What became of the stage in one class.

    Returns:
        `outcome`: "ran", "refused", "not run" or "wrong", the others than "ran" with `why`; with
        "ran" also `calls`, the names of the calls that held.
    """
    try:
        model = sweep.build(name)
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why}
    sweep.start_alarm()
    held: list[str] = []
    call = "one"
    try:
        prune(model, ALL, layers=LayerStage(1, 0.5))
        with torch.no_grad():
            for case in support_stage._cases(model):
                call = case.name
                try:
                    check(model, case)
                    held.append(call)
                except NotRunError as error:
                    if call == "one":
                        return {"outcome": "not run", "why": error.why}
    except sweep.TooLongError:
        if not held:
            return {"outcome": "not run", "why": "too slow"}
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why}
    except UnsupportedError as error:
        return {"outcome": "refused", "why": str(error)}
    except Exception as error:
        return {"outcome": "wrong", "why": f"{call}: {error!r}"}
    finally:
        sweep.stop_alarm()
    return {"outcome": "ran", "calls": held}


if __name__ == "__main__":
    write("layers", outcome, sys.argv[1:])
