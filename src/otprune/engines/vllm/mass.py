"""Mass in vLLM's language models: a bias for each key, in features appended to queries and keys.

vLLM's attention takes no bias for a key. The dot product gets one if queries and keys are a few
features wider (`otprune.engines.common.key_features`). These features are written into the cache
with their key, so they follow it through pages, chunks, prefix caching and preemption.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vllm.distributed import get_tp_group
from vllm.model_executor.layers.attention import Attention
from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.selector import get_attn_backend

from otprune.engines.common.key_features import FEATURES, PIECES, join, split
from otprune.engines.vllm.checks import UNQUANTISED, logger
from otprune.errors import UnsupportedError

# Whose forward() hands query, key and value to `attn`, and does nothing else with it.
KNOWN_LAYERS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
# Which take the size of a head from its layer everywhere, and not from the model's configuration.
KNOWN_BACKENDS = ("CPU_ATTN", "FLASH_ATTN")
LARGEST = 512  # features of a head
INSTEAD = 'leave mass out, or give "mass": "none"'


class WiderAttention(Attention):  # type: ignore[misc]
    """An attention layer whose heads are wider inside, for a bias on each key.

    narrow: the layer that it takes the place of. It must not be registered any more.
    head_size: features of a head in the kernel and in the cache. Values have zeros there.
    features: `(n, head_size - narrow.head_size)` in the model's dtype, appended to the keys of the
        tokens of a step; whoever runs the model writes them before.
    """

    def __init__(self, narrow: Any, head_size: int, features: Tensor, cache_config: Any) -> None:
        super().__init__(
            narrow.num_heads,
            head_size,
            narrow.impl.scale,
            num_kv_heads=narrow.num_kv_heads,
            cache_config=cache_config,
            quant_config=narrow.quant_config,
            prefix=narrow.layer_name,
        )
        self.narrow_size = narrow.head_size
        self.register_buffer("key_features", features, persistent=False)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """As `Attention.forward`: `(n, heads * size)` each, in the model's own size of a head."""
        own, more = self.narrow_size, self.head_size - self.narrow_size
        query, key, value = (x.unflatten(-1, (-1, own)) for x in (query, key, value))
        features = self.key_features[: key.shape[0], None].expand(-1, key.shape[1], -1)
        query = F.pad(query, (0, more), value=1.0)
        key = torch.cat([key, features], dim=-1)
        value = F.pad(value, (0, more))
        out: Tensor = super().forward(query.flatten(1), key.flatten(1), value.flatten(1))
        return out.view(len(out), -1, own + more)[..., :own].flatten(1)


class KeyFeatures:
    """The appended features of a language model's keys, and its attention layers that read them."""

    def __init__(self, model: Any, vllm_config: Any) -> None:
        """Widen the heads of every attention layer of `model`, before caches are made for them.

        Raises:
            UnsupportedError: a layer in which the mass would be lost or wrong, or no attention
                backend that has the wider heads.
        """
        registered = vllm_config.compilation_config.static_forward_context
        owners = _owners(model)
        _check_layers(model, owners, registered)
        first = next(iter(owners.values())).attn
        cache = vllm_config.cache_config
        wide = _wider(first.head_size, first.dtype, cache.cache_dtype)
        rows = vllm_config.scheduler_config.max_num_batched_tokens
        self.scale = float(first.impl.scale)
        self.features = torch.zeros(rows, wide - first.head_size, dtype=first.dtype)
        for name, owner in owners.items():
            del registered[name]
            owner.attn = WiderAttention(owner.attn, wide, self.features, cache)
        if get_tp_group().rank_in_group == 0:
            token = sum(
                2 * owner.attn.num_kv_heads * owner.attn.kv_cache_torch_dtype.itemsize
                for owner in owners.values()
            )
            logger.info(
                "otprune: mass makes attention heads %d features wide instead of %d, and the KV "
                "cache %d bytes a token instead of %d (on each rank)",
                *(wide, first.head_size, wide * token, first.head_size * token),
            )

    def write(
        self, tokens: int, log_masses: Sequence[Tensor], is_multimodal: Tensor | None
    ) -> None:
        """Set the features of the tokens of one step.

        Args:
            tokens: their number.
            log_masses: of the images of this step, `(k,)` float32 each, in the order of tokens.
            is_multimodal: `(tokens,)` bool, which tokens are an image's; None if there are none.
        """
        features = self.features[:tokens]
        features.zero_()
        if log_masses:
            pieces = split(torch.cat(list(log_masses)) / self.scale)
            features[:, :PIECES][is_multimodal] = pieces.to(features.dtype)


def _owners(model: nn.Module) -> dict[str, Any]:
    """The modules that hold an attention layer of vLLM's, by the layer's name."""
    modules: Iterator[Any] = model.modules()
    held = [x for x in modules if isinstance(getattr(x, "attn", None), Attention)]
    return {owner.attn.layer_name: owner for owner in held}


def _check_layers(model: Any, owners: dict[str, Any], registered: dict[str, Any]) -> None:
    strange = set(registered) - set(owners)
    if strange or not owners:
        raise UnsupportedError(
            f"mass with {type(model).__name__}: {min(strange, default='no layer')} is no attention "
            f"layer that mass is known to reach: {INSTEAD}"
        )
    first = next(iter(owners.values())).attn
    for name, owner in owners.items():
        layer = owner.attn
        alike = (layer.head_size, layer.impl.scale, layer.dtype) == (
            first.head_size,
            first.impl.scale,
            first.dtype,
        )
        plain = (
            type(layer) is Attention
            and layer.attn_type == AttentionType.DECODER
            and layer.head_size_v == layer.head_size
            and layer.sliding_window is None
            and layer.kv_sharing_target_layer_name is None
            and not layer.has_sink
            and layer.kv_cache_dtype in UNQUANTISED
            and getattr(owner, "dual_chunk_attention_config", None) is None
        )
        if type(owner).__name__ not in KNOWN_LAYERS or not (alike and plain):
            raise UnsupportedError(
                f"mass with {type(owner).__name__} ({name}): only full attention of "
                f"{', '.join(KNOWN_LAYERS)}, without a quantised cache, is known to take it: "
                f"{INSTEAD}"
            )


def _wider(head_size: int, dtype: torch.dtype, cache_dtype: str) -> int:
    """The least size of a head with room for the features that attention has a kernel for."""
    reasons = []
    for wide in range(head_size + FEATURES, LARGEST + 1, FEATURES):
        try:
            backend = get_attn_backend(wide, dtype, cache_dtype)
        except ValueError as cause:  # no backend has this size
            reasons.append(str(cause))
            continue
        if backend.get_name() not in KNOWN_BACKENDS:
            raise UnsupportedError(
                f"mass with attention backend {backend.get_name()}: only "
                f"{', '.join(KNOWN_BACKENDS)} are known to take it (--attention-backend): {INSTEAD}"
            )
        if backend.supports_head_size(wide):
            return wide
    raise UnsupportedError(
        f"mass: no attention backend has heads of more than {head_size} features "
        f"({reasons[-1] if reasons else 'all are known'}): {INSTEAD}"
    )


def with_log_mass(features: Tensor, log_mass: Tensor) -> Tensor:
    """Features `(k, d)` with three more columns, which hold the log mass `(k,)` of each token."""
    return torch.cat([features, split(log_mass).to(features)], dim=1)


def without_log_mass(features: Tensor) -> tuple[Tensor, Tensor]:
    """The reverse of `with_log_mass`: features `(k, d)`, and log masses `(k,)` float32."""
    return features[:, :-PIECES], join(features[:, -PIECES:])
