"""How many images vLLM's encoder works on in one step: counted as whole, not as pruned.

vLLM encodes all images of a step before it answers the first. A step's budget for the encoder is a
number of placeholders; of pruned images many more fit in, and the first answers would wait for all
of them. Here the budget counts the tokens that the encoder works on, as it does without pruning.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.core.encoder_cache_manager import EncoderCacheManager

from otprune.engines.vllm.settings import KEY


class PacedEncoderCache(EncoderCacheManager):  # type: ignore[misc]
    """vLLM's own, which also refuses images of a step once those before them fill its budget.

    An image is never refused if it is the first of its step, so that each of them is encoded.
    """

    def __init__(self, cache_size: int, budget: int) -> None:
        super().__init__(cache_size)
        self._budget = budget
        self._encoded = 0  # tokens of this step's images before pruning

    @classmethod
    def create_manager(cls, *, cache_size: int, vllm_config: Any) -> PacedEncoderCache:
        """As vLLM's, with the budget of its scheduler."""
        return cls(cache_size, vllm_config.scheduler_config.max_num_encoder_input_tokens)

    def can_allocate(
        self,
        request: Any,
        input_id: int,
        encoder_compute_budget: int,
        num_embeds_to_schedule: int,
    ) -> bool:
        """Whether an image may be encoded in this step."""
        if self._encoded and self._encoded + _tokens(request, input_id) > self._budget:
            return False
        fits: bool = super().can_allocate(
            request, input_id, encoder_compute_budget, num_embeds_to_schedule
        )
        if fits:
            # Counted here: images of one request are all asked for before the first is allocated.
            self._encoded += _tokens(request, input_id)
        return fits

    def get_freed_mm_hashes(self) -> list[str]:
        """As vLLM's; its scheduler asks once, at the end of each step."""
        self._encoded = 0
        freed: list[str] = super().get_freed_mm_hashes()
        return freed


def _tokens(request: Any, input_id: int) -> int:
    """Tokens of an image before pruning; placeholders where that is not known."""
    data = request.mm_features[input_id].data
    if data is None or KEY not in data or data[KEY].data is None:
        return int(request.get_num_encoder_embeds(input_id))
    sets, m = data[KEY].data[:2].tolist()
    return int(sets * m)
