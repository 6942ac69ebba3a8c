"""What a stage must equal: the encoder with every kept token literally repeated.

Written without the engine. The layer of the selection attends to all tokens, and its MLP works on
each token alone, so kept tokens leave it as in the unpruned run. The layers behind it are called by
hand on sequences in which a kept token stands as many times as its cell has tokens, and all copies
see each other.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.measures.cells import Cells


@dataclass(frozen=True)
class Record:
    """Calls of an encoder's layers in an unpruned run: arguments by name, and the result."""

    arguments: list[dict[str, Any]]
    results: list[Tensor]


def record(tower: Any, layers: list[Any], inputs: dict[str, Any]) -> Record:
    """Run the encoder and write down its layers' calls."""
    made = Record([], [])

    def hook(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        names = inspect.signature(module.forward).bind(*args, **kwargs)
        flat: dict[str, Any] = {}
        for name, value in names.arguments.items():
            flat |= value if name == "kwargs" else {name: value}
        made.arguments.append(flat)
        made.results.append(out[0] if isinstance(out, tuple) else out)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        tower(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return made


def repeated(
    layers: list[Any], calls: Record, first: int, row: int, times: Tensor, visible: Tensor
) -> list[Tensor]:
    """Results of the layers from `first` on for one sequence, read at the first copies.

    Args:
        first: index of the layer of the selection.
        row: which of the sequences.
        times: `(n,)` int64, how often each token of the sequence stands; 0 for dropped ones.
        visible: `(n,)` bool, False at padding, which is left out.

    Returns:
        For each layer `(kept, d)`, of the tokens that stand at least once.
    """
    whole = calls.results[first]
    stands = torch.arange(len(times)).repeat_interleave(times * visible)
    copies = stands.unique_consecutive(return_inverse=True)[1]
    firsts = torch.cat([torch.ones(1).bool(), copies.diff() > 0])
    hidden = whole[stands] if whole.ndim == 2 else whole[row : row + 1, stands]
    results = [hidden.reshape(-1, hidden.shape[-1])[firsts]]
    for layer, given in zip(layers[first + 1 :], calls.arguments[first + 1 :], strict=True):
        new = {}
        for name, value in given.items():
            if name == "hidden_states":
                new[name] = hidden
            elif name == "cu_seqlens":
                part = torch.bucketize(stands, value.long(), right=True)
                ends = part.unique(return_counts=True)[1].cumsum(0)
                new[name] = torch.nn.functional.pad(ends, (1, 0)).to(value.dtype)
            elif name == "position_embeddings":
                new[name] = tuple(x.index_select(-2, stands) for x in value)
            elif name == "attention_mask" and value is not None and value.shape[0] == 1:
                new[name] = value[:, :, stands][:, :, :, stands]
            elif name == "attention_mask":
                new[name] = None  # it hides padding alone, which is left out
            elif name == "max_seqlen":
                new[name] = None
            else:
                new[name] = value
        out = layer(**new)
        hidden = out[0] if isinstance(out, tuple) else out
        results.append(hidden.reshape(-1, hidden.shape[-1])[firsts])
    return results


def times_of(cells: Cells) -> Tensor:
    """`(m,)` int64: how often each token of a set stands."""
    number = torch.zeros_like(cells.cell)
    return number.index_add_(0, cells.representative, torch.ones_like(cells.cell))
