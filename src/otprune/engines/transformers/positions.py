"""Where the tokens of a shrunk prompt stand.

"preserved": every token keeps the position that it has in the full prompt, so the geometry that
rotary embeddings see stays what it was; positions then have gaps. "compact": positions are counted
anew, 0 to n - 1, as the code published with OTPrune does (arXiv 2602.20205).

Positions are `(B, S)`, or `(3, B, S)` and `(4, B, S)` for M-RoPE: time, height and width, with the
index in the text in front of them when there are four.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from otprune.engines.transformers.families import family
from otprune.errors import OTPruneError, UnsupportedError

Positions = Literal["preserved", "compact"]


def check_positions(positions: object) -> None:
    """Raise OTPruneError unless `positions` is one of the two schemes."""
    if positions not in get_args(Positions):
        names = " or ".join(map(repr, get_args(Positions)))
        raise OTPruneError(f"positions={positions!r}: expected {names}")


def takes_positions(model: Any) -> bool:
    """Whether the model can be told where its tokens stand."""
    return "position_ids" in inspect.signature(model.forward).parameters


def full_positions(model: Any, inputs: dict[str, Any], mask: Tensor) -> Tensor:
    """Positions of the full prompt: the caller's, or what generate() would make of the inputs.

    Args:
        model: the model; M-RoPE families leave their rope_deltas on it, as ever.
        inputs: arguments of the call, grids and type ids included.
        mask: `(B, S)`, 1 at tokens and 0 at padding.
    """
    ids = inputs["input_ids"]
    given: Tensor | None = inputs.get("position_ids")
    if given is None:
        others = {k: v for k, v in inputs.items() if k != "input_ids"} | {"attention_mask": mask}
        given = model._prepare_position_ids_for_generation(ids, others)
        takes = inspect.signature(model.forward).parameters
        if given.ndim == 3 and "mm_token_type_ids" in takes and "mm_token_type_ids" not in inputs:
            raise OTPruneError(
                "mm_token_type_ids is missing, so the positions of the images are not known: "
                "pass on everything that the processor returned"
            )
    return given.expand(*given.shape[:-2], *ids.shape)


def compact_positions(mask: Tensor, like: Tensor, documents: Tensor | None = None) -> Tensor:
    """0 to n - 1 over the tokens of each row, 0 at padding; as many leading axes as `like`.

    Args:
        mask: `(B, n)`, 1 at tokens.
        like: positions of the full prompt.
        documents: `(B, n)`, which of the documents packed into the row each token belongs to, each
            counted by itself; None for one a row.
    """
    counted = (mask.long().cumsum(-1) - 1).clamp(min=0)
    if documents is not None:
        new = documents.diff(dim=-1, prepend=documents[:, :1] - 1) != 0
        counted = counted - counted.where(new, 0).cummax(dim=-1).values
    return counted.expand(*like.shape[:-2], *counted.shape).clone()


def last_of(positions: Tensor, mask: Tensor) -> Tensor:
    """`(..., B, 1)`, the position of each row's last token; `mask` `(B, n)`, 1 at tokens."""
    column = mask.long().cumsum(dim=1).argmax(dim=1, keepdim=True).to(positions.device)
    return positions.gather(-1, column.expand(*positions.shape[:-1], 1))


def documents_of(inputs: Mapping[str, Any], full: Tensor) -> Tensor | None:
    """`(B, S)`: which of several documents in its row each token belongs to; None if there is one.

    transformers reads positions that do not go on by one as the border between two packed
    documents, if it is given no mask. Of M-RoPE positions only those with an index in the text say
    so.
    """
    if inputs.get("attention_mask") is not None or inputs.get("position_ids") is None:
        return None
    if full.ndim == 3 and full.shape[0] != 4:
        return None
    index = full if full.ndim == 2 else full[0]
    borders = index.diff(dim=-1, prepend=index[:, :1] - 1) != 1
    return borders.long().cumsum(-1) if bool(borders.any()) else None


def check_documents(
    positions: Positions, documents: Tensor | None, full: Tensor, new: Tensor
) -> None:
    """Refuse packed documents that would not be told apart any more.

    Args:
        positions: the scheme.
        documents: as of `documents_of`.
        full: positions of the full prompt.
        new: `(B, n)` bool, columns of the shrunk prompt that are padding it did not have before.
    """
    if documents is None:
        return
    if bool(new.any()):
        raise UnsupportedError(
            "documents are packed into rows that lose different numbers of tokens: the shorter row "
            "would need padding and with it a mask, and with a mask transformers does not tell "
            "documents apart; give one row a call"
        )
    if positions == "preserved" and full.ndim == 2:
        raise UnsupportedError(
            "documents are packed into one row (position_ids start anew, and there is no mask), "
            "and transformers would read the gaps of preserved positions as borders too: use "
            "positions='compact'"
        )


def with_text_index(gathered: Tensor, mask: Tensor, documents: Tensor | None = None) -> Tensor:
    """Preserved M-RoPE positions with the text index in front counted anew.

    That first of four axes never reaches a rotary embedding; transformers reads its gaps as the
    borders of packed sequences.
    """
    if gathered.ndim == 3 and gathered.shape[0] == 4:
        gathered = gathered.clone()
        gathered[0] = compact_positions(mask, mask, documents)
    return gathered


def rope_delta(positions: Tensor, mask: Tensor) -> Tensor:
    """M-RoPE's own bookkeeping `(B, 1)`: next position less the number of tokens so far."""
    axes = positions.unsqueeze(0) if positions.ndim == 2 else positions[-3:]
    return axes.amax(dim=(0, -1)).unsqueeze(1) + 1 - mask.sum(dim=1, keepdim=True)


def check_gaps(model: Any, positions: Positions, full: Tensor) -> None:
    """Refuse positions with gaps where they would be misread, or would not reach attention."""
    if positions != "preserved":
        return
    name = type(model).__name__
    if not takes_positions(model):
        raise UnsupportedError(f"{name} takes no position_ids: use positions='compact'")
    lost = family(model.config).positions
    if lost is not None:
        raise UnsupportedError(
            f"{name}: {lost}, so kept tokens cannot stay in their places: use positions='compact'"
        )
    attention = str(model.config.get_text_config()._attn_implementation)
    if full.ndim == 2 and "flash" in attention:
        raise UnsupportedError(
            f"{attention} reads gaps in positions as packed sequences: use positions='compact', "
            "or model.set_attn_implementation('sdpa')"
        )
