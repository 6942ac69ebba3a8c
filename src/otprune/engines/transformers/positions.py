"""Positions of the tokens of a pruned prompt.

"preserved": every token keeps its position in the full prompt, so rotary embeddings see the same
geometry; positions then have gaps. "compact": positions are 0 to n - 1, as in the code published
with OTPrune (arXiv 2602.20205). "auto" is one of the two for each call: see `scheme_of`.

Positions are `(B, S)`, or for M-RoPE `(3, B, S)` (time, height, width) or `(4, B, S)` (the same
after a text index).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from otprune.engines.transformers.families import family
from otprune.engines.transformers.heads import generating
from otprune.engines.transformers.parameters import parameters_of
from otprune.errors import OTPruneError, UnsupportedError

Positions = Literal["auto", "preserved", "compact"]
Scheme = Literal["preserved", "compact"]


def check_positions(positions: object) -> None:
    """Raise OTPruneError unless `positions` is "auto" or one of the two schemes."""
    if positions not in get_args(Positions):
        names = ", ".join(map(repr, get_args(Positions)))
        raise OTPruneError(f"positions={positions!r}: expected one of {names}")


def takes_positions(model: Any) -> bool:
    """Whether the model's forward() takes position_ids."""
    return "position_ids" in parameters_of(model.forward)


def full_positions(model: Any, inputs: dict[str, Any], mask: Tensor) -> Tensor:
    """Positions of the full prompt: the caller's, or those that generate() would compute.

    Args:
        model: the model. M-RoPE families set `rope_deltas` on it, as in an unpruned call.
        inputs: arguments of the call, including grids and type ids.
        mask: `(B, S)`, 1 at tokens and 0 at padding.
    """
    ids = inputs["input_ids"]
    given: Tensor | None = inputs.get("position_ids")
    if given is None:
        others = {k: v for k, v in inputs.items() if k != "input_ids"} | {"attention_mask": mask}
        given = generating(model)._prepare_position_ids_for_generation(ids, others)
        takes = parameters_of(model.forward)
        if given.ndim == 3 and "mm_token_type_ids" in takes and "mm_token_type_ids" not in inputs:
            raise OTPruneError(
                "mm_token_type_ids is missing, so the positions of the images are not known: "
                "pass on everything that the processor returned"
            )
    return given.expand(*given.shape[:-2], *ids.shape)


def compact_positions(mask: Tensor, like: Tensor, documents: Tensor | None = None) -> Tensor:
    """0 to n - 1 over the tokens of each sequence, 0 at padding; as many leading axes as `like`.

    Args:
        mask: `(B, n)`, 1 at tokens.
        like: positions of the full prompt.
        documents: `(B, n)`, index of the packed document that each token belongs to; positions
            start at 0 in each. None if documents are not packed.
    """
    counted = (mask.long().cumsum(-1) - 1).clamp(min=0)
    if documents is not None:
        new = documents.diff(dim=-1, prepend=documents[:, :1] - 1) != 0
        counted = counted - counted.where(new, 0).cummax(dim=-1).values
    return counted.expand(*like.shape[:-2], *counted.shape).clone()


def are_own(inputs: Mapping[str, Any], full: Tensor, mask: Tensor) -> bool:
    """Whether the caller gave positions other than those that a call without any gets."""
    if inputs.get("position_ids") is None:
        return False
    full = full.to(mask.device)
    return bool(((full != compact_positions(mask, full)) & mask.bool()).any())


def last_of(positions: Tensor, mask: Tensor) -> Tensor:
    """`(..., B, 1)`, the position of each sequence's last token; `mask` `(B, n)`, 1 at tokens."""
    column = mask.long().cumsum(dim=1).argmax(dim=1, keepdim=True).to(positions.device)
    return positions.gather(-1, column.expand(*positions.shape[:-1], 1))


def documents_of(inputs: Mapping[str, Any], full: Tensor) -> Tensor | None:
    """`(B, S)`: index of the packed document that each token belongs to; None if none are packed.

    Without a mask, transformers starts a new packed document wherever the position does not
    increase by one. Of M-RoPE positions only those with a text index can show this.
    """
    if inputs.get("attention_mask") is not None or inputs.get("position_ids") is None:
        return None
    if full.ndim == 3 and full.shape[0] != 4:
        return None
    index = full if full.ndim == 2 else full[0]
    borders = index.diff(dim=-1, prepend=index[:, :1] - 1) != 1
    return borders.long().cumsum(-1) if bool(borders.any()) else None


def scheme_of(
    positions: Positions, model: Any, full: Tensor, documents: Tensor | None, chosen: bool
) -> Scheme:
    """The scheme of one call.

    "auto" is "preserved" for M-RoPE positions and where `chosen`, unless that is refused for the
    model or the call, and "compact" otherwise.

    Args:
        positions: the scheme, or "auto".
        model: the model.
        full: positions of the full prompt.
        documents: as returned by `documents_of`.
        chosen: whether the call has mass or a distance term, or positions of the caller's own.

    Raises:
        UnsupportedError: "preserved" is asked for, and the model would misread gaps in positions or
            does not use positions.
    """
    if positions == "compact":
        return "compact"
    refused = _refused(model, full)
    if positions == "preserved":
        if refused is not None:
            raise UnsupportedError(refused)
        return "preserved"
    mrope = full.ndim == 3
    packed = documents is not None and not mrope
    return "preserved" if (mrope or chosen) and refused is None and not packed else "compact"


def check_documents(positions: Scheme, documents: Tensor | None, full: Tensor, new: Tensor) -> None:
    """Refuse packed documents whose borders transformers would not recognise after pruning.

    Args:
        positions: the scheme.
        documents: as returned by `documents_of`.
        full: positions of the full prompt.
        new: `(B, n)` bool, True at padding added by pruning.
    """
    if documents is None:
        return
    if bool(new.any()):
        raise UnsupportedError(
            "documents are packed into sequences that lose different numbers of tokens: the "
            "shorter one would need padding and with it a mask, and with a mask transformers does "
            "not tell documents apart; give one sequence a call"
        )
    if positions == "preserved" and full.ndim == 2:
        raise UnsupportedError(
            "documents are packed into one sequence (position_ids start anew, and there is no "
            "mask), and transformers would read the gaps of preserved positions as borders too: "
            "use positions='compact'"
        )


def with_text_index(gathered: Tensor, mask: Tensor, documents: Tensor | None = None) -> Tensor:
    """Preserved M-RoPE positions, except that the text index (the first of four axes) is compact.

    Rotary embeddings do not use the text index. transformers reads gaps in it as borders between
    packed sequences.
    """
    if gathered.ndim == 3 and gathered.shape[0] == 4:
        gathered = gathered.clone()
        gathered[0] = compact_positions(mask, mask, documents)
    return gathered


def rope_delta(positions: Tensor, mask: Tensor) -> Tensor:
    """`rope_deltas` of M-RoPE models, `(B, 1)`: next position minus the number of tokens so far."""
    axes = positions.unsqueeze(0) if positions.ndim == 2 else positions[-3:]
    return axes.amax(dim=(0, -1)).unsqueeze(1) + 1 - mask.sum(dim=1, keepdim=True)


def _refused(model: Any, full: Tensor) -> str | None:
    """Why preserved positions are refused; None if they are not."""
    name = type(model).__name__
    if not takes_positions(model):
        return f"{name} takes no position_ids: use positions='compact'"
    lost = family(model.config).positions
    if lost is not None:
        return (
            f"{name}: {lost}, so kept tokens cannot stay in their places: use positions='compact'"
        )
    attention = str(model.config.get_text_config()._attn_implementation)
    if full.ndim == 2 and "flash" in attention:
        return (
            f"{attention} reads gaps in positions as packed sequences: use positions='compact', "
            "or model.set_attn_implementation('sdpa')"
        )
    return None
