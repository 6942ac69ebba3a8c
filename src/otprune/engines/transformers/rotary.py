"""The distance term of attention: rotary angles of a language model, and a bias made of them.

The term is defined by the angles by which a layer turns its queries and keys. They are read from
the model's own rotary module, for the positions of the call, so base, scaling, partial rotation,
M-RoPE sections and angles that differ between layer types are the model's. The term is exact only
where every layer turns all queries and keys by these angles, so language models are listed by name.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from otprune.engines.transformers.bias import repeat_rows
from otprune.engines.transformers.families import family
from otprune.errors import UnsupportedError
from otprune.measures.mass import log_distance

# Language models (`model_type`) in which every layer turns every query and key by the angles of
# one rotary module. tests/families/test_rotary.py compares each with its layers.
ROTARY = frozenset(
    {
        "aria_text",
        "gemma3_text",
        "glm4v_moe_text",
        "glm4v_text",
        "glm_ocr_text",
        "llama",
        "mistral",
        "paddleocr_vl_text",
        "qwen2",
        "qwen2_5_vl_text",
        "qwen2_vl_text",
        "qwen3",
        "qwen3_vl_moe_text",
        "qwen3_vl_text",
    }
)
# Their frequencies change with the length of the sequence, and cached keys keep the earlier ones.
_CHANGING = {"dynamic", "longrope"}


class Rotary:
    """The rotary embedding of one language model.

    module: its rotary module.
    layer_types: type of each layer if the angles differ between types, else None.
    """

    def __init__(self, module: nn.Module, layer_types: list[str] | None) -> None:
        self.module = module
        self.layer_types = layer_types

    def kind_of(self, layer: Any) -> str | None:
        """What the angles of an attention layer depend on: its type, or None if on nothing."""
        return None if self.layer_types is None else self.layer_types[layer.layer_idx]

    @torch.no_grad()
    def features(self, positions: Tensor, kind: str | None) -> Tensor:
        """Cosines, then sines, of the angles at positions `(B, n)` or `(3 or 4, B, n)`.

        Returns:
            `(B, n, 2 r)` float32, r the number of features of a head that are turned.
        """
        place = next(self.module.buffers()).device
        # Of M-RoPE positions with four axes the first is a text index, which turns nothing.
        positions = (positions[-3:] if positions.ndim == 3 else positions).to(place)
        like = torch.zeros(1, dtype=torch.float32, device=place)  # says dtype and device
        cos, sin = self.module(like, positions, *([] if kind is None else [kind]))
        if cos.ndim != 3:
            raise UnsupportedError(
                f"distance: {type(self.module).__name__} of this release of transformers does not "
                "say which angle belongs to which feature: use a newer one, or distance=False"
            )
        # Some scaled embeddings are longer than 1. That scales logits, not angles.
        length = (cos.square() + sin.square()).sqrt()
        return torch.cat([cos / length, sin / length], dim=-1)


def rotary_of(model: Any) -> Rotary:
    """The rotary embedding of a model's language model.

    Raises:
        UnsupportedError: it is not known that all of its layers turn queries and keys by it.
    """
    name, decoder = type(model).__name__, model.get_decoder()
    config, without = decoder.config, "use distance=False"
    lost = family(model.config).positions
    if lost is not None:
        raise UnsupportedError(f"distance: {name}: {lost}: {without}")
    if config.model_type not in ROTARY:
        raise UnsupportedError(
            f"distance: {name}: the layers of its language model ({config.model_type}) are not "
            f"known to turn every query and key by one rotary embedding: {without}"
        )
    module = decoder.rotary_emb
    types = module.rope_type.values() if isinstance(module.rope_type, dict) else [module.rope_type]
    for rope_type in types:
        if rope_type in _CHANGING:
            raise UnsupportedError(
                f"distance: {name} has rotary embeddings of type {rope_type}, whose frequencies "
                f"change with the length of the prompt while cached keys keep theirs: {without}"
            )
    by_type = "layer_type" in inspect.signature(module.forward).parameters
    return Rotary(module, list(config.layer_types) if by_type else None)


@dataclass(frozen=True, eq=False)
class Distance:
    """The distance term of one prompt's keys.

    rotary: the rotary embedding of the language model.
    strength: `(B, n)` float32, factor of the term for each token of the prompt; 0 for none.
    keys: `(..., B, n)`, positions of these tokens.
    queries: `(..., rows, q)`, positions of the tokens of the current call; None before a call.
    """

    rotary: Rotary
    strength: Tensor
    keys: Tensor
    queries: Tensor | None = None

    def for_call(self, positions: Tensor | None) -> Distance:
        """The same for a call with these `position_ids`.

        Raises:
            UnsupportedError: they are None.
        """
        if positions is None:
            raise UnsupportedError(
                "distance: this call has no position_ids, so the distance of its tokens from the "
                "image is not known: pass position_ids, or use distance=False"
            )
        return replace(self, queries=positions)

    def bias(self, layer: Any, query: Tensor) -> Tensor:
        """`(batch, q, n)` float32, what is added to the logits of a layer.

        query: `(batch, heads, q, d)`.
        """
        assert self.queries is not None
        batch, _, q, head = query.shape
        kind = self.rotary.kind_of(layer)
        queries = self.rotary.features(self.queries, kind)
        keys = self.rotary.features(self.keys, kind)
        if queries.shape[1] != q or batch % len(queries):
            raise UnsupportedError(
                f"distance: a layer has {batch} x {q} queries, and the call gave positions for "
                f"{len(queries)} x {queries.shape[1]}: use distance=False"
            )
        queries = repeat_rows(queries, batch).to(query.device)
        keys = repeat_rows(keys, batch).to(query.device)
        strength = repeat_rows(self.strength, batch).to(query.device)
        return log_distance(queries, keys, head).mul_(strength.unsqueeze(1))
