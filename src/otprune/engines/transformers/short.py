"""The arguments of an encoder's layer by name, for its kept tokens alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from otprune.engines.common.short import Short
from otprune.errors import UnsupportedError


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
