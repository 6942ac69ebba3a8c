"""The internals of vLLM that otprune uses, listed so that a test can name what a release changed.

Documented and used besides: `ModelRegistry.register_model` with a lazy "module:Class" string, the
entry point `vllm.general_plugins`, `SupportsMultiModalPruning`, `MULTIMODAL_REGISTRY`.
"""

from __future__ import annotations

import functools
import inspect
from importlib import import_module
from typing import Any

TESTED = (0, 32)  # every 0.32.x
# Releases of which nothing was run: tools/vllm_moved.py compared their sources with the list below.
COMPARED = ((0, 33),)

_PROCESSOR = "vllm.multimodal.processing.processor"
_MODELS = "vllm.model_executor.models"
_CACHE = "vllm.v1.core.encoder_cache_manager"
_QWEN = "vllm.model_executor.models.qwen2_vl"
_ATTENTION = "vllm.model_executor.layers.attention"
_HIDDEN = ("self", "positions", "hidden_states")

# Module, name in it, and the first parameters that otprune relies on (None: any).
USED: tuple[tuple[str, str, tuple[str, ...] | None], ...] = (
    (_PROCESSOR, "BaseMultiModalProcessor.apply", ("self", "inputs", "timing_ctx")),
    (_PROCESSOR, "BaseMultiModalProcessor._get_mm_hashes", ("self", "inputs")),
    (
        _PROCESSOR,
        "BaseMultiModalProcessor._get_mm_prompt_updates",
        ("self", "mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
    ),
    (
        _PROCESSOR,
        "BaseMultiModalProcessor._get_prompt_updates",
        ("self", "mm_items", "hf_processor_mm_kwargs", "out_mm_kwargs"),
    ),
    (
        _PROCESSOR,
        "BaseMultiModalProcessor._get_cache_missing_items",
        ("self", "cache", "mm_data_items", "mm_hashes"),
    ),
    (
        "vllm.transformers_utils.config",
        "try_get_generation_config",
        ("model", "trust_remote_code", "revision"),
    ),
    (
        _PROCESSOR,
        "BaseMultiModalProcessor._maybe_apply_prompt_updates",
        ("self", "mm_items", "mm_res"),
    ),
    (_PROCESSOR, "BaseMultiModalProcessor.get_dummy_mm_inputs", ("self",)),
    (_PROCESSOR, "MultiModalProcessingResult.prompt_updates", None),
    (_PROCESSOR, "ResolvedPromptUpdate.with_content", ("self", "content")),
    (_PROCESSOR, "PromptUpdateDetails", ("full", "is_embed")),
    ("vllm.multimodal.processing.inputs", "ProcessorInputs", None),
    ("vllm.multimodal.hasher", "MultiModalHasher.hash_kwargs", None),
    ("vllm.multimodal.registry", "MultiModalRegistry.register_processor", ("self", "processor")),
    (
        "vllm.multimodal.registry",
        "_ProcessorFactories",
        ("info", "processor", "dummy_inputs"),
    ),
    ("vllm.multimodal.inputs", "MultiModalFieldElem", ("data", "field")),
    ("vllm.multimodal.inputs", "MultiModalBatchedField", ("keep_on_cpu",)),
    ("vllm.multimodal.inputs", "MultiModalSharedField", ("keep_on_cpu", "batch_size")),
    (
        "vllm.multimodal.inputs",
        "MultiModalFeatureSpec",
        ("data", "modality", "identifier", "mm_position"),
    ),
    ("vllm.multimodal.inputs", "PlaceholderRange", ("offset", "length", "is_embed")),
    ("vllm.multimodal.inputs", "PlaceholderRange.extract_embeds_range", ("self",)),
    ("vllm.config", "VllmConfig.__post_init__", ("self",)),
    ("vllm.config.multimodal", "MultiModalConfig.is_multimodal_pruning_enabled", ("self",)),
    ("vllm.config.multimodal", "MultiModalConfig.get_video_pruning_spec", ("self",)),
    ("vllm.config.multimodal", "MultiModalConfig.mm_hasher_algorithm", None),
    ("vllm.v1.worker.cpu_model_runner", "CPUModelRunner", None),
    (
        f"{_QWEN}",
        "Qwen2VLForConditionalGeneration.get_mrope_input_positions",
        ("self", "input_tokens", "mm_features"),
    ),
    (
        "vllm.model_executor.models.interfaces",
        "SupportsEncoderCudaGraph.get_encoder_cudagraph_config",
        ("self",),
    ),
    (
        "vllm.model_executor.models.interfaces",
        "SupportsMultiModalPruning.recompute_mrope_positions",
        (
            "self",
            "input_ids",
            "multimodal_embeddings",
            "mrope_positions",
            "num_computed_tokens",
        ),
    ),
    ("vllm.distributed", "get_tp_group", ()),
    (
        _ATTENTION,
        "Attention.__init__",
        ("self", "num_heads", "head_size", "scale", "num_kv_heads"),
    ),
    (_ATTENTION, "Attention.forward", ("self", "query", "key", "value")),
    (_ATTENTION, "Attention.get_kv_cache_spec", ("self", "vllm_config")),
    (
        "vllm.v1.attention.selector",
        "get_attn_backend",
        ("head_size", "dtype", "kv_cache_dtype"),
    ),
    ("vllm.v1.attention.backend", "AttentionBackend.supports_head_size", ("head_size",)),
    ("vllm.v1.attention.backend", "AttentionType.DECODER", None),
    *(
        (f"vllm.model_executor.models.{module}", f"{name}.forward", _HIDDEN)
        for module, name in (
            ("llama", "LlamaAttention"),
            ("mistral", "MistralAttention"),
            ("qwen2", "Qwen2Attention"),
            ("qwen3", "Qwen3Attention"),
        )
    ),
    (
        "vllm.model_executor.models.interfaces",
        "SupportsMultiModal.embed_input_ids",
        ("self", "input_ids", "multimodal_embeddings", "is_multimodal"),
    ),
    # A selection inside the encoder.
    (
        "vllm.model_executor.layers.attention.mm_encoder_attention",
        "MMEncoderAttention.forward_native",
        ("self", "query", "key", "value"),
    ),
    (f"{_MODELS}.clip", "CLIPVisionTransformer.forward", ("self", "pixel_values")),
    (f"{_MODELS}.clip", "CLIPEncoderLayer.forward", ("self", "hidden_states")),
    (f"{_MODELS}.siglip", "SiglipVisionTransformer.forward", ("self", "pixel_values")),
    (f"{_MODELS}.siglip", "SiglipEncoderLayer.forward", ("self", "hidden_states")),
    (f"{_MODELS}.interns1_vit", "InternS1VisionModel.forward", ("self", "pixel_values")),
    (f"{_MODELS}.interns1_vit", "InternS1VisionLayer.forward", ("self", "hidden_states")),
    *(
        (f"{_MODELS}.{module}", f"{name}.forward", given)
        for module, transformer, block in (
            ("qwen2_vl", "Qwen2VisionTransformer", "Qwen2VisionBlock"),
            ("qwen2_5_vl", "Qwen2_5_VisionTransformer", "Qwen2_5_VisionBlock"),
            ("qwen3_vl", "Qwen3_VisionTransformer", "Qwen3_VisionBlock"),
        )
        for name, given in (
            (transformer, ("self", "x", "grid_thw")),
            (block, ("self", "x", "cu_seqlens", "rotary_pos_emb_cos", "rotary_pos_emb_sin")),
        )
    ),
    *(
        (
            f"{_MODELS}.{module}",
            f"{name}ForConditionalGeneration._merge_image_patch_embeddings",
            ("self", "image_size", "patch_embeddings"),
        )
        for module, name in (("llava_next", "LlavaNext"), ("llava_onevision", "LlavaOnevision"))
    ),
    # The pace of the encoder.
    ("vllm.config", "EncoderCacheManagerConfig", ("encoder_cache_manager_cls",)),
    (_CACHE, "EncoderCacheManager.create_manager", ("cache_size", "vllm_config")),
    (
        _CACHE,
        "EncoderCacheManager.can_allocate",
        ("self", "request", "input_id", "encoder_compute_budget", "num_embeds_to_schedule"),
    ),
    (_CACHE, "EncoderCacheManager.get_freed_mm_hashes", ("self",)),
    # agreement.py
    ("vllm.v1.executor.abstract", "Executor.__init__", ("self", "vllm_config")),
    ("vllm.v1.executor.abstract", "Executor.collective_rpc", ("self", "method")),
    ("vllm.v1.executor.abstract", "Executor.shutdown", ("self",)),
    ("vllm.v1.worker.worker_base", "WorkerBase.get_model", ("self",)),
    ("vllm.v1.engine", "EngineCoreReadyResponse", None),
    ("vllm.v1.engine.core", "EngineCoreProc._make_ready_response", ("self",)),
    ("vllm.v1.engine.core_client", "MPClient._apply_ready_response", ("self", "payload")),
)


def changed_internals() -> list[str]:
    """The entries of `USED` that the installed vLLM lacks, or has with other parameters."""
    found = []
    for module, path, parameters in USED:
        try:
            thing: Any = import_module(module)
            for name in path.split("."):
                thing = getattr(thing, name)
        except (ImportError, AttributeError) as cause:
            found.append(f"{module}:{path} is gone ({cause})")
            continue
        if parameters is None:
            continue
        has = tuple(inspect.signature(thing).parameters)
        if has[: len(parameters)] != parameters:
            found.append(f"{module}:{path} takes {has}, expected {parameters}")
    return found


def tested(version: str) -> bool:
    """Whether a vLLM version, such as "0.32.0+cpu", is in the tested range."""
    return _release(version) == TESTED


def compared(version: str) -> bool:
    """Whether a vLLM version is accepted without having run, see `COMPARED`."""
    return _release(version) in COMPARED


def _release(version: str) -> tuple[int, ...]:
    numbers = version.split("+")[0].split(".")[:2]
    return tuple(map(int, numbers)) if all(n.isdigit() for n in numbers) else ()


def ask_for_positions(config: Any) -> None:
    """Make a worker's runner call `recompute_mrope_positions`.

    The runner asks its `MultiModalConfig`, whose answer is yes only for vLLM's own pruning of
    videos. The runner for CPUs does not ask at all (0.32.0), so it is patched to.
    """
    from vllm.platforms import current_platform

    config.__class__ = _pruning_config()
    if current_platform.is_cpu():
        _patch_cpu_runner()


_CONFIG = "OTPruneMultiModalConfig"


@functools.cache
def _pruning_config() -> type[Any]:
    from vllm.config.multimodal import MultiModalConfig

    class OTPruneMultiModalConfig(MultiModalConfig):  # type: ignore[misc]
        def is_multimodal_pruning_enabled(self) -> bool:
            return True

    OTPruneMultiModalConfig.__qualname__ = _CONFIG
    return OTPruneMultiModalConfig


def __getattr__(name: str) -> type[Any]:
    """The class above by name, for a configuration that is unpickled in another process."""
    if name != _CONFIG:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _pruning_config()


def _patch_cpu_runner() -> None:
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    name = "is_multimodal_pruning_enabled"
    if isinstance(vars(CPUModelRunner).get(name), property):
        return

    def enabled(self: Any) -> bool:
        ours = isinstance(self.model_config.multimodal_config, _pruning_config())
        return ours or bool(vars(self).get(name, False))

    def keep(self: Any, value: bool) -> None:
        vars(self)[name] = value

    # The runner for GPUs sets this attribute when it has loaded a model. For other engines in this
    # process, which were not asked to prune, nothing changes.
    setattr(CPUModelRunner, name, property(enabled, keep))
