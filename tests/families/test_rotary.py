"""The distance term: every layer turns every query and key by the angles that it is made of."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel

from otprune import UnsupportedError
from otprune.engines.transformers.attention import check_attention
from otprune.engines.transformers.rotary import ROTARY, rotary_of
from tools.small_models import small

from .tiny import FAMILIES

CLASSES = {
    "aria_text": "AriaForConditionalGeneration",
    "gemma3_text": "Gemma3ForConditionalGeneration",
    "glm4v_moe_text": "Glm4vMoeForConditionalGeneration",
    "glm4v_text": "Glm4vForConditionalGeneration",
    "glm_ocr_text": "GlmOcrForConditionalGeneration",
    "llama": "LlavaForConditionalGeneration",
    "mistral": "Mistral3ForConditionalGeneration",
    "paddleocr_vl_text": "PaddleOCRVLForConditionalGeneration",
    "qwen2": "LlavaOnevisionForConditionalGeneration",
    "qwen2_5_vl_text": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_vl_text": "Qwen2VLForConditionalGeneration",
    "qwen3": "QianfanOCRForConditionalGeneration",
    "qwen3_vl_moe_text": "Qwen3VLMoeForConditionalGeneration",
    "qwen3_vl_text": "Qwen3VLForConditionalGeneration",
}
PLACES = torch.tensor([[0, 3, 4, 11, 40, 41]])


def queries_and_keys(decoder: PreTrainedModel, positions: Tensor) -> dict[int, list[Tensor]]:
    """Queries and keys of every layer, if attention adds nothing to the hidden states.

    Hidden states then do not depend on positions, in any layer.
    """
    seen: dict[int, list[Tensor]] = {}

    def nothing(module, query, key, value, mask, **kwargs):  # type: ignore[no-untyped-def]
        seen[module.layer_idx] = [query, key]
        rows, heads, n, _ = query.shape
        return value.new_zeros(rows, n, heads, value.shape[-1]), None

    AttentionInterface.register("test_nothing", nothing)
    decoder.set_attn_implementation("test_nothing")
    embeds = torch.randn(1, PLACES.shape[1], decoder.config.hidden_size)
    mask = torch.ones(PLACES.shape, dtype=torch.long)
    with torch.no_grad():
        decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return seen


def turned(x: Tensor, cos: Tensor, sin: Tensor, neighbours: bool) -> Tensor:
    """The rotated features of `x`, whose pairs are neighbours or lie half a head apart."""
    r = cos.shape[-1]
    x, rest = x[..., :r], x[..., r:]
    if neighbours:
        other = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    else:
        other = torch.cat([-x[..., r // 2 :], x[..., : r // 2]], dim=-1)
    return torch.cat([x * cos + other * sin, rest], dim=-1)


@pytest.mark.parametrize("kind", sorted(ROTARY))
def test_every_layer_turns_queries_and_keys_by_these_angles(kind: str) -> None:
    torch.manual_seed(0)
    model = small(getattr(transformers, CLASSES[kind])).eval()
    decoder = model.get_decoder()
    assert decoder.config.model_type == kind
    rotary = rotary_of(model)
    torch.manual_seed(1)
    moved = queries_and_keys(decoder, PLACES)
    torch.manual_seed(1)
    still = queries_and_keys(decoder, torch.zeros_like(PLACES))
    assert len(moved) == decoder.config.num_hidden_layers
    # A call of an M-RoPE model always has positions of three axes; older releases insist on them.
    mrope = kind not in ("aria_text", "gemma3_text", "llama", "mistral", "qwen2", "qwen3")
    places = PLACES.expand(3, 1, -1) if mrope else PLACES
    for layer, pair in moved.items():
        module = next(m for m in decoder.modules() if getattr(m, "layer_idx", None) == layer)
        cos, sin = rotary.features(places, rotary.kind_of(module))[:, None].chunk(2, dim=-1)
        neighbours = kind in ("glm4v_text", "glm_ocr_text")
        for was, now in zip(still[layer], pair, strict=True):
            assert not torch.allclose(was, now)
            torch.testing.assert_close(now, turned(was, cos, sin, neighbours), rtol=0, atol=1e-5)


def refused(model: PreTrainedModel) -> str:
    with pytest.raises(UnsupportedError, match=r"^distance: ") as caught:
        check_attention(model, distance=True)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["PaliGemmaForConditionalGeneration", "Cohere2VisionForConditionalGeneration"],
)
def test_other_language_models_are_refused(name: str) -> None:
    assert name in refused(small(getattr(transformers, name)))


def test_frequencies_that_change_are_refused() -> None:
    model = FAMILIES["llava"].model()
    model.get_decoder().rotary_emb.rope_type = "dynamic"
    assert "type dynamic" in refused(model)


def test_flash_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llava"].model()
    monkeypatch.setattr(model.get_decoder().config, "_attn_implementation", "flash_attention_2")
    check_attention(model)
    assert "set_attn_implementation('sdpa')" in refused(model)
