"""Reference logits of a pruned call, computed without the engine.

The input embeddings of the language model are recorded in an unpruned call, and those of dropped
tokens are removed. The language model is then run on one sequence at a time, without padding or
cache and with an explicit mask. A token of mass n is replaced by n copies at the same position that
attend to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .base import Inputs


def language_model(model: PreTrainedModel) -> Any:
    base = model.base_model
    return getattr(base, "language_model", None) or base.text_model


@torch.no_grad()
def entering(model: PreTrainedModel, inputs: Inputs) -> dict[str, Any]:
    """The arguments that the language model gets in `model(**inputs)`."""
    seen: dict[str, Any] = {}
    hook = language_model(model).register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    try:
        model(**inputs, use_cache=False)
    finally:
        hook.remove()
    return seen


@torch.no_grad()
def reference_logits(
    model: PreTrainedModel,
    inputs: Inputs,
    keep: Tensor,
    positions: str,
    answer: Tensor,
    added: Tensor | None = None,
    factor: Tensor | None = None,
    hidden: Sequence[tuple[int, Tensor]] = (),
    blocked: Tensor | None = None,
) -> list[Tensor]:
    """Logits of each sequence, for its kept prompt tokens and its answer, `(n_b + t, V)`.

    Args:
        model: the model, not being pruned.
        inputs: the unpruned call.
        keep: `(B, S)` bool, True at kept prompt tokens; or int, the number of copies of each.
        positions: "preserved" or "compact".
        answer: `(B, t)` ids after the prompt, t may be 0.
        added: `(B, S)`, what the mask adds to the logits of each prompt token.
        factor: `(B, S)`, by which the distance term of each prompt token is multiplied.
        hidden: layers and `(B, S)` bool, prompt tokens that no other sees from there on.
        blocked: `(n + t, n + t)` bool, of a single sequence: which kept tokens and tokens of the
            answer do not see which.
    """
    seen = entering(model, inputs)
    steps = model.get_input_embeddings()(answer)
    full = _positions(seen, inputs["attention_mask"])
    rows = []
    for b in range(len(keep)):
        times = keep[b].long() * inputs["attention_mask"][b]
        kept = torch.arange(len(times)).repeat_interleave(times)
        embeds = torch.cat([seen["inputs_embeds"][b][kept], steps[b]])[None]
        place = _extended(full[..., b : b + 1, :][..., kept], answer.shape[1])
        if positions == "compact":
            place = _ranks(kept, answer.shape[1]).expand_as(place)
        mask = _mask(model, seen["attention_mask"], b, kept, answer.shape[1])
        if added is not None:
            more = torch.cat([added[b][kept], torch.zeros(answer.shape[1])])
            mask = {k: m + more for k, m in mask.items()} if isinstance(mask, dict) else mask + more
        if factor is not None:
            more = torch.cat([factor[b][kept], torch.zeros(answer.shape[1])])
            if isinstance(mask, dict):
                mask = {k: m + more * distance_term(model, place, k) for k, m in mask.items()}
            else:
                mask = mask + more * distance_term(model, place)
        if blocked is not None:
            mask = mask.masked_fill(blocked, torch.finfo(torch.float32).min)
        unseen = [(layer, gone[b][kept]) for layer, gone in hidden]
        with _unseen_from(model, unseen):
            out = language_model(model)(
                inputs_embeds=embeds,
                position_ids=place,
                attention_mask=mask,
                use_cache=False,
                **_deepstack(seen, b, kept, answer.shape[1]),
            )
        ranks = _ranks(kept, answer.shape[1])
        first = torch.cat([ranks.new_ones(1), ranks.diff()]) > 0
        rows.append(model.lm_head(out.last_hidden_state)[0][first])
    return rows


@contextmanager
def _unseen_from(model: PreTrainedModel, hidden: list[tuple[int, Tensor]]) -> Iterator[None]:
    """Inside, layers from some on get a mask that hides tokens `(n,)` as keys."""

    def hide(gone: Tensor, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs["attention_mask"].clone()
        mask[..., : len(gone)][..., gone] = torch.finfo(mask.dtype).min
        return args, kwargs | {"attention_mask": mask}

    hooks = [
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, gone=gone: hide(gone, args, kwargs), with_kwargs=True
        )
        for first, gone in hidden
        for layer in language_model(model).layers[first:]
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def distance_term(model: PreTrainedModel, place: Tensor, layer_type: str = "") -> Tensor:
    """`(n, n)`: log(2 - D) from each of n tokens to each, the formula written out.

    `D = 2/d sum_j cos((m - n) theta_j)`, `theta_j = theta ** (-2 (j - 1) / d)`; with M-RoPE, each
    frequency takes the positions of its own axis.

    Args:
        model: the model.
        place: `(1, n)` or `(3, 1, n)`, the positions of the tokens.
        layer_type: of the layers meant, if their angles differ.
    """
    config = model.get_decoder().config
    rope = config.rope_parameters.get(layer_type, config.rope_parameters)
    d = config.head_dim
    axes = _axis_of_each_frequency(model, d // 2)
    total = torch.zeros(place.shape[-1], place.shape[-1], dtype=torch.float64)
    for j in range(1, d // 2 + 1):
        theta = rope["rope_theta"] ** (-2 * (j - 1) / d)
        if rope["rope_type"] != "default":  # scaled
            theta = float(model.get_decoder().rotary_emb.inv_freq[j - 1])
        at = (place[axes[j - 1], 0] if place.ndim == 3 else place[0]).double()
        for m in range(len(at)):
            total[m] += torch.cos((at[m] - at) * theta)
    return (2 - 2 / d * total).log().float()


def _axis_of_each_frequency(model: PreTrainedModel, number: int) -> list[int]:
    """Time, height or width for each frequency: in blocks, or taking turns (Qwen3-VL)."""
    sections = model.get_decoder().config.rope_parameters.get("mrope_section", [number, 0, 0])
    if model.config.model_type == "qwen3_vl":
        return [j % 3 if j % 3 and j // 3 < sections[j % 3] else 0 for j in range(number)]
    return [axis for axis, length in enumerate(sections) for _ in range(length)]


def _ranks(kept: Tensor, number: int) -> Tensor:
    """The index of each token among the distinct ones, `number` more behind them."""
    ranks = torch.unique(kept, return_inverse=True)[1]
    return torch.cat([ranks, ranks.max() + torch.arange(1, number + 1)])


def _positions(seen: dict[str, Any], mask: Tensor) -> Tensor:
    """`(3, B, S)` as an M-RoPE model makes them, else `(B, S)` counted from the mask."""
    given = seen.get("position_ids")
    if given is not None and given.ndim == 3:
        return given[-3:]
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _extended(place: Tensor, number: int) -> Tensor:
    """Followed by `number` positions, counted on from the last."""
    return torch.cat([place, place[..., -1:] + torch.arange(1, number + 1)], dim=-1)


def _mask(model: PreTrainedModel, full: Any, row: int, kept: Tensor, number: int) -> Any:
    """Additive `(1, 1, n, n)`: causal, or what the model made for the full prompt, sliced.

    A sliding window has no meaning to slice: it counts the tokens that survive, once each.
    """
    if isinstance(full, dict):
        seen = _sliced(full["full_attention"], row, kept, number)
        at = _ranks(kept, number)
        near = at[:, None] - at[None, :] < model.config.get_text_config().sliding_window
        return {"full_attention": _additive(seen), "sliding_attention": _additive(seen & near)}
    if full is not None and full.ndim == 4:
        return _additive(_sliced(full, row, kept, number))
    return _additive(_causal(kept, number))


def _causal(kept: Tensor, number: int) -> Tensor:
    at = _ranks(kept, number)
    return at[:, None] >= at[None, :]


def _sliced(mask: Tensor, row: int, kept: Tensor, number: int) -> Tensor:
    """The mask among kept tokens, then `number` more tokens that see everything before them."""
    seen = mask[row, 0] if mask.dtype == torch.bool else mask[row, 0] == 0
    whole = _causal(kept, number)
    whole[: len(kept), : len(kept)] = seen[kept][:, kept]
    return whole


def _additive(seen: Tensor) -> Tensor:
    return torch.where(seen, 0.0, torch.finfo(torch.float32).min)[None, None]


def _deepstack(seen: dict[str, Any], row: int, kept: Tensor, number: int) -> dict[str, Any]:
    """Qwen3-VL's visual levels, each `(visual tokens of the batch, d)`: the row's kept ones."""
    visual, levels = seen.get("visual_pos_masks"), seen.get("deepstack_visual_embeds")
    if visual is None or levels is None:
        return {}
    at = torch.cat([visual[row][kept], torch.zeros(number, dtype=torch.bool)])[None]
    cut = []
    for level in levels:
        spread = torch.zeros(*visual.shape, level.shape[-1])
        spread[visual] = level
        cut.append(spread[row][kept[visual[row][kept]]])
    return {"visual_pos_masks": at, "deepstack_visual_embeds": cut}


def check_encoder_gradients(
    model: PreTrainedModel, inputs: Inputs, loss: Callable[[Inputs], Tensor]
) -> None:
    """Compare the gradient by the encoder's parameters with a finite difference along it.

    Computed in float64, except for what models themselves compute in float32. The step is therefore
    not smaller.
    """
    model.double()
    inputs = {k: x.double() if x.is_floating_point() else x for k, x in inputs.items()}
    weights = [p for n, p in model.named_parameters() if "vis" in n and p.ndim == 2]
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss(inputs), weights, materialize_grads=True)
    steepness = float(sum(slope.square().sum() for slope in slopes)) ** 0.5

    @torch.no_grad()
    def moved(by: float) -> float:
        for p, slope in zip(weights, slopes, strict=True):
            p += by / steepness * slope
        return float(loss(inputs))

    step = 1e-3
    rise = moved(step) - moved(-2 * step)
    assert rise / (2 * step) == pytest.approx(steepness, rel=2e-3)
