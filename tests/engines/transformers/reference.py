"""The reference that pruning is measured against, built by hand.

The full prompt is embedded by the model itself; then, row by row, the dropped tokens are taken out
of embeddings, positions and deepstack levels, and the language model alone is run on what is left,
under an explicit causal mask. Nothing of the engine takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers import Pruned
from tests.families.base import IMAGE, VIDEO

TOLERANCE = 2e-4


def kept_columns(inputs: dict[str, Tensor], items: Sequence[Pruned]) -> Tensor:
    """`(B, S)` bool: text and kept tokens, from the report alone."""
    ids = inputs["input_ids"]
    keep = inputs["attention_mask"].bool().clone()
    for modality, token in (("image", IMAGE), ("video", VIDEO)):
        for row in range(len(ids)):
            columns = (ids[row] == token).nonzero().flatten()
            mine = [item for item in items if item.row == row and item.modality == modality]
            assert sum(item.before for item in mine) == len(columns)
            start = 0
            for item in mine:
                keep[row, columns[start : start + item.before]] = False
                keep[row, columns[start + item.indices]] = True
                start += item.before
    return keep


@torch.no_grad()
def reference_logits(
    model: Any, inputs: dict[str, Tensor], keep: Tensor, positions: str
) -> list[Tensor]:
    """Logits `(n_b, vocabulary)` of every row's kept tokens."""
    others = {key: value for key, value in inputs.items() if key != "input_ids"}
    full = model._prepare_position_ids_for_generation(inputs["input_ids"], others)
    seen: dict[str, Any] = {}
    hook = model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    model(**inputs, position_ids=full, use_cache=False)
    hook.remove()

    logits = []
    for row, kept in enumerate(keep):
        n = int(kept.sum())
        place = full[..., row : row + 1, kept]
        if positions == "compact":
            place = torch.arange(n).expand_as(place)
        arguments: dict[str, Any] = {}
        levels = seen.get("deepstack_visual_embeds")
        if levels is not None:
            visual = seen["visual_pos_masks"]
            arguments["visual_pos_masks"] = visual[row : row + 1, kept]
            arguments["deepstack_visual_embeds"] = [
                level[(visual.nonzero()[:, 0] == row) & keep[visual]] for level in levels
            ]
        causal = torch.full((1, 1, n, n), torch.finfo(torch.float32).min).triu(1)
        hidden = model.model.language_model(
            inputs_embeds=seen["inputs_embeds"][row : row + 1, kept],
            position_ids=place[1:] if len(place) == 4 else place,
            attention_mask=causal,
            use_cache=False,
            **arguments,
        ).last_hidden_state
        logits.append(model.lm_head(hidden)[0])
    return logits
