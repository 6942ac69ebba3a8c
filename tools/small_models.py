"""A small random model of any image-text-to-text class, from its default config made smaller."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

VOCABULARY = 400
WIDTH = 64
LARGEST = 400_000_000  # parameters; more is not built

# Names that configs use for sizes, and what they become.
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        "hidden_size embed_dim d_model dim out_hidden_size projection_dim text_hidden_size n_embd "
        "emb_dim mm_hidden_size vision_output_dim projector_input_dim projector_output_dim "
        "hidden_size_for_image".split(),
        WIDTH,
    ),
    **dict.fromkeys("intermediate_size mlp_dim ffn_dim intermediate_size_mlp".split(), 64),
    **dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size".split(), 32),
    **dict.fromkeys(
        "num_hidden_layers depth num_layers n_layers encoder_layers decoder_layers".split(), 2
    ),
    **dict.fromkeys(
        "num_attention_heads num_heads n_heads n_head encoder_attention_heads "
        "decoder_attention_heads".split(),
        4,
    ),
    **dict.fromkeys("num_key_value_heads num_global_key_value_heads".split(), 2),
    **dict.fromkeys("head_dim global_head_dim v_head_dim q_lora_rank kv_lora_rank".split(), 16),
    **dict.fromkeys("qk_rope_head_dim qk_nope_head_dim".split(), 8),
    **dict.fromkeys("linear_head_dim linear_key_head_dim linear_value_head_dim".split(), 8),
    **dict.fromkeys("linear_num_heads linear_num_key_heads linear_num_value_heads".split(), 2),
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), 4),
    "num_experts_per_tok": 2,
    **dict.fromkeys(
        "n_shared_experts n_group topk_group first_k_dense_replace num_global_layers".split(), 1
    ),
    "vocab_size": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 4,
    "num_kv_shared_layers": 0,
    "visual_vocab_size": 64,
    "fullatt_block_indexes": [1],
    "deepstack_visual_indexes": [0, 1],
    "vision_feature_layer": -1,
    "vision_soft_tokens_per_image": 4,
    "num_position_embeddings": 64,
    "partial_rotary_factor": 1.0,
}
# One entry a layer, made anew by the config for its number of layers.
PER_LAYER = set(
    "layer_types mlp_layer_types no_rope_layers moe_layers id2label label2id block_types "
    "sparse_layers layers_block_type indexer_types window_block_indexes per_layer_config "
    "kv_source_layers".split()
)


def small(model_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A random model in eval mode, float32; raises whatever its config or its code raises."""
    config_class: Any = model_class.config_class
    values = _shrunk(config_class().to_dict())
    _renumber(values)
    config = config_class.from_dict(_override(values, model_class))
    with torch.device("meta"):
        size = sum(p.numel() for p in model_class._from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"{size / 1e6:.0f} million parameters after shrinking")
    torch.manual_seed(0)
    model = model_class(config).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                torch.nn.init.normal_(parameter, std=0.1)
    settings = getattr(model, "generation_config", None)
    if settings is None:
        return model
    settings.eos_token_id, settings.pad_token_id = None, 0
    settings.suppress_tokens = list(range(VOCABULARY - 40, VOCABULARY))
    return model


def _shrunk(values: dict[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("rope_parameters", "rope_scaling"):
            out[name] = _with_sections(copy.deepcopy(value))
        elif isinstance(value, dict) and name != "attribute_map":
            out[name] = _shrunk(value)
        elif name in PER_LAYER:
            continue
        elif value is not None and name in SIZES:
            fits = isinstance(value, list) == isinstance(SIZES[name], list)
            out[name] = SIZES[name] if fits else value
        elif name == "image_size" and isinstance(value, int):
            patch = values.get("patch_size")
            out[name] = 4 * patch if isinstance(patch, int) else 56
        else:
            out[name] = value
    return out


def _with_sections(rope: Any) -> Any:
    """M-RoPE sections that fit a head of 16."""
    if isinstance(rope, dict):
        if "mrope_section" in rope:
            rope |= {"mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
        for value in rope.values():
            _with_sections(value)
    return rope


def _renumber(values: dict[str, Any], free: list[int] | None = None) -> None:
    """Special tokens that the smaller vocabulary does not hold move to its end."""
    free = [VOCABULARY - 1] if free is None else free
    for name, value in values.items():
        if isinstance(value, dict):
            _renumber(value, free)
        elif (
            str(name).endswith(("_token_id", "_token_index", "_tok_id"))
            and isinstance(value, int)
            and value >= VOCABULARY - 40
        ):
            values[name] = free[0]
            free[0] -= 1


def _override(values: dict[str, Any], model_class: type[PreTrainedModel]) -> dict[str, Any]:
    """What only one family wants."""
    kind = str(getattr(model_class.config_class, "model_type", ""))
    text = values.get("text_config")
    text = text if isinstance(text, dict) else values
    if ("qwen" in kind and "qwen3_vl" not in kind) or kind in MROPE:
        rope = text.get("rope_parameters") or {"rope_type": "default", "rope_theta": 10000.0}
        text["rope_parameters"] = rope | {"mrope_section": [4, 2, 2], "partial_rotary_factor": 1.0}
    if any(part in kind for part in ("qwen3_5", "qwen4", "lfm", "step3", "minicpm", "glm5")):
        text["num_hidden_layers"] = 4  # one period of their layer types
    if "image_grid_pinpoints" in values:
        side = values["vision_config"]["image_size"]
        values["image_grid_pinpoints"] = [[side, 2 * side], [2 * side, side]]
    for name, value in OVERRIDES.get(kind, {}).items():
        part, _, inner = name.rpartition(".")
        (values[part] if part else values)[inner] = value
    return values


MROPE = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "paddleocr_vl")
GEMMA4_VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}
OVERRIDES: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "audio_config.codebook_dim": WIDTH,
        "audio_config.codebook_size": 20,
        "audio_token_offset": 338,
        "image_token_offset": 210,
        "vision_config.base_channels": 32,
        "vision_config.codebook_size": 128,
        "vision_config.num_res_blocks": 1,
    },
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "blip-2": {"image_token_index": 395, "image_token_id": 395},
    "cohere_compass": {
        "text_config.rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}
            for kind in ("full_attention", "sliding_attention")
        }
    },
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"]},
    "ernie4_5_vl_moe": {
        "text_config.moe_intermediate_size": [32, 32],
        "text_config.rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 2, 4],
        },
    },
    "gemma3": {"mm_tokens_per_image": 4},
    "gemma3n": {
        "text_config.activation_sparsity_pattern": [0.0, 0.0],
        "text_config.intermediate_size": 64,
    },
    "gemma4": {"text_config.per_layer_config": {}, "vision_config": GEMMA4_VISION},
    "gemma4_unified": {"text_config.per_layer_config": {}, "vision_config": GEMMA4_VISION},
    "glm5_next": {"text_config.num_key_value_heads": 4, "text_config.qk_rope_head_dim": 0},
    "got_ocr2": {"vision_config.image_size": 256},
    "granite_docling": {"vision_config.image_size": 128},
    "granite4_vision": {"deepstack_layer_map": [[-1, 0], [-2, 1]], "downsample_rate": "1/2"},
    "hunyuan_vl": {
        "text_config.head_dim": 16,
        "text_config.rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [2, 2, 2, 2],
        },
    },
    "hy_v4_vl": {"text_config.qk_rope_head_dim": 16},
    "kimi_k25": {
        "projection_hidden_size": WIDTH,
        "text_config.qk_rope_head_dim": 16,
        "text_config.num_key_value_heads": 4,
    },
    "llama4": {
        "vision_config.intermediate_size": 256,
        "vision_config.projector_input_dim": 64,
        "vision_config.projector_output_dim": 64,
        "vision_config.vision_output_dim": 64,
    },
    "minicpm_ocr": {"image_token_id": 395, "video_token_id": 394},
    "minicpmv4_6": {"image_token_id": 395, "video_token_id": 394},
    "minicpmv4_7": {"image_token_id": 395, "video_token_id": 394},
    "mistral_large4": {"text_config.num_key_value_heads": 4},
    "dots3_note": {"text_config.per_layer_config": {}, "text_config.num_key_value_heads": 4},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 389},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 389},
    "step3p7": {"text_config.sliding_window": 64, "vision_config.image_size": 224},
    "vipllava": {"vision_feature_layers": [-1, -2]},
}
