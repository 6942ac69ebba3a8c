"""The short sequences of an encoder's kept tokens, and the way back to whole ones.

Functions of tensors and of a layer's arguments by name; what calls them is `tower`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells


@dataclass(frozen=True)
class Short:
    """The kept tokens of R sequences of n tokens, n' in each.

    columns: `(R, n')` int64, ascending.
    index: `(R * n',)`, the same among the tokens of all sequences.
    back: `(R * n,)`, for each token the position in `index` of the token whose feature it takes.
    log_mass: `(R, n')` float32.
    """

    columns: Tensor
    index: Tensor
    back: Tensor
    log_mass: Tensor

    @property
    def n(self) -> int:
        return len(self.back) // len(self.columns)

    def take(self, hidden: Tensor) -> Tensor:
        """`(R, n, d)`, or `(n, d)` of one sequence, to `(R, n', d)` or `(n', d)`."""
        flat = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.index.to(hidden.device))
        return flat if hidden.ndim == 2 else flat.view(*self.columns.shape, -1)

    def give_back(self, hidden: Tensor) -> Tensor:
        """`(R, n', d)` or `(n', d)` to `(R, n, d)` or `(n, d)`."""
        flat = hidden.reshape(-1, hidden.shape[-1]).index_select(0, self.back.to(hidden.device))
        return flat if hidden.ndim == 2 else flat.view(len(self.columns), self.n, -1)

    def borders(self, old: Tensor) -> Tensor:
        """Packed borders `(parts + 1,)` of the short sequence, without its empty parts."""
        kept = torch.zeros(self.n + 1, dtype=torch.int64, device=old.device)
        kept[self.columns[0].to(old.device) + 1] = 1
        found: Tensor = torch.unique_consecutive(kept.cumsum(0)[old.long()])
        return found.to(old.dtype)


def short_of(special: Tensor, units: list[Tensor], cells: list[Cells], rows: int, n: int) -> Short:
    """The short sequences of `rows` sequences of `n` tokens.

    Args:
        special, units: as in `towers.Layout`.
        cells: the plan of each set.

    Raises:
        UnsupportedError: they would differ in length, and padding cannot fill them up.
    """
    device = special.device
    keep = torch.zeros(rows * n, dtype=torch.bool, device=device)
    padding = torch.ones_like(keep)
    log_mass = torch.zeros(rows * n, dtype=torch.float32, device=device)
    whose = torch.arange(rows * n, device=device)
    keep[special], padding[special] = True, False
    for some, plan in zip(units, cells, strict=True):
        kept = some[plan.kept]
        padding[some], keep[kept] = False, True
        log_mass[kept] = plan.counts().log().unsqueeze(1)
        whose[some] = kept[plan.cell]
    keep, padding = keep.view(rows, n), padding.view(rows, n)
    number = keep.sum(dim=1, keepdim=True)
    width = int(number.max())
    # Shorter sequences are filled up with padding of theirs, which the layer's mask hides.
    filler = padding & (padding.cumsum(dim=1) <= width - number)
    keep = keep | filler
    if bool((keep.sum(dim=1) != width).any()):
        raise UnsupportedError(
            "the sequences of an encoder's batch keep different numbers of tokens: give an encoder "
            "stage whose selector keeps the same share of each image"
        )
    columns = keep.nonzero()[:, 1].view(rows, width)
    first = torch.arange(rows, device=device).unsqueeze(1)
    index = (columns + first * n).reshape(-1)
    place = (keep.cumsum(dim=1) - 1 + first * width).reshape(-1)
    # Dropped padding takes the feature of the first token; nothing reads it.
    lost = (padding & ~keep).reshape(-1)
    whose = torch.where(lost, index.view(rows, width)[:, :1].expand(rows, n).reshape(-1), whose)
    return Short(columns, index, place[whose], log_mass[index].view(rows, width))


def shortened(name: str, value: Any, short: Short, tower: str) -> Any:
    """An argument of a layer, for the kept tokens."""
    if name == "hidden_states":
        return short.take(value)
    if name in ("cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k") and value is not None:
        return short.borders(value)
    if name in ("max_seqlen", "max_length_q", "max_length_k"):
        return value  # an upper bound, which still is one
    if name == "output_hidden_states":
        return value  # True, or the indices of the layers whose output a model reads
    if name == "position_embeddings" and value is not None:
        return tuple(_along_tokens(name, x, short, tower) for x in value)
    if name == "attention_mask" and isinstance(value, Tensor):
        return _mask(value, short, tower)
    if name == "position_ids" and isinstance(value, Tensor) and len(value) == short.n:
        return value.index_select(0, short.columns[0].to(value.device))
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UnsupportedError(
        f"{tower} hands {name} to its layers, and how to shorten it is not known: prune without "
        "encoder="
    )


def _along_tokens(name: str, value: Tensor, short: Short, tower: str) -> Tensor:
    if len(short.columns) > 1 or value.shape[-2] != short.n:
        raise UnsupportedError(
            f"{tower} hands {name} of shape {tuple(value.shape)} to its layers, and how to shorten "
            "it is not known: prune without encoder="
        )
    return value.index_select(-2, short.columns[0].to(value.device))


def _mask(mask: Tensor, short: Short, tower: str) -> Tensor:
    """The rows and columns of a mask `(B or 1, h, q, keys)` or `(B, keys)` for the kept tokens."""
    n, columns = short.n, short.columns.to(mask.device)
    if mask.ndim not in (2, 4) or mask.shape[-1] != n or len(mask) not in (1, len(columns)):
        raise UnsupportedError(
            f"{tower} hands a mask of shape {tuple(mask.shape)} to its layers, and how to shorten "
            "it is not known: prune without encoder="
        )
    mask = mask.expand(len(columns), *mask.shape[1:])
    if mask.ndim == 2:
        return mask.gather(1, columns)
    if mask.shape[2] == n:
        mask = mask.gather(2, columns[:, None, :, None].expand(-1, mask.shape[1], -1, n))
    return mask.gather(3, columns[:, None, None].expand(-1, *mask.shape[1:3], -1))


def whole_again(out: Any, short: Short) -> Any:
    """What a layer gave for the kept tokens, for all tokens."""
    if isinstance(out, tuple):
        return short.give_back(out[0]), *out[1:]
    return short.give_back(out)
