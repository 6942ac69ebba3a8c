"""Checks of an engine's configuration before anything is loaded, and the log lines about it.

Takes a `VllmConfig`, but imports none of vLLM's modules.
"""

from __future__ import annotations

import logging
from typing import Any

from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.seconds import open_folder
from otprune.engines.vllm.settings import KEY, MODALITIES, Settings, engine_settings
from otprune.engines.vllm.towers import COMPILED, check_stage
from otprune.errors import UnsupportedError
from otprune.selectors.named import RECOMMENDED
from otprune.selectors.settings import shown

PACED = "otprune.engines.vllm.pace.PacedEncoderCache"
logger = logging.getLogger("vllm.otprune")
# By the type of their configuration: language models whose attention layers take a mass.
WEIGHING = (
    *("llama", "mistral", "qwen2", "qwen3"),
    *("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"),
)
UNQUANTISED = ("auto", "float16", "bfloat16")
_logged: set[str] = set()


def pruned(config: Any) -> Any:
    """What `otprune` is in the configuration of an engine whose images are pruned, else None."""
    model = config.model_config
    given = getattr(model and model.hf_config, KEY, None)
    if given is None or model.multimodal_config is None or model.model_impl == "transformers":
        return None
    return given if any(name in FAMILIES for name in model.architectures) else None


def check(config: Any, caution: str | None = None) -> None:
    """Refuse what would prune wrongly; log once what is done with this model.

    Args:
        config: a `VllmConfig`.
        caution: what to warn of where something is pruned.

    Raises:
        UnsupportedError: a combination that cannot be pruned rightly.
        OTPruneError: wrong settings, see `engine_settings`.
    """
    model = config.model_config
    if model is None:
        return
    mm = model.multimodal_config
    if mm is not None and KEY in (mm.mm_processor_kwargs or {}):
        raise UnsupportedError(
            "otprune in --mm-processor-kwargs does not reach the workers: use --hf-overrides "
            '\'{"otprune": {"keep": 0.1}}\''
        )
    given = getattr(model.hf_config, KEY, None)
    if given is None:
        return
    settings = engine_settings(given)
    names = list(model.architectures)
    family = next((FAMILIES[name] for name in names if name in FAMILIES), None)
    if family is None or mm is None or model.model_impl == "transformers":
        _log_once(f"otprune: {', '.join(names)} is served unchanged, nothing is pruned here")
        return

    if mm.get_video_pruning_spec() is not None:
        raise UnsupportedError(
            "vLLM's own video pruning (--video-pruning-rate) and otprune in one engine: leave one "
            "of them out"
        )
    if mm.mm_encoder_only and any(map(settings.hears, MODALITIES)):
        raise UnsupportedError(
            f"method {settings.method} hears the question, and --mm-encoder-only has no embeddings "
            "of words: use a method that does without"
        )
    positions = settings.positions
    if positions == "auto":
        positions = "preserved" if family.mrope else "compact"
    if positions == "preserved" and not family.mrope:
        raise UnsupportedError(
            f'positions="preserved" with {names[0]}: vLLM itself counts its positions, use '
            '"compact" or leave it out'
        )
    if positions == "preserved" and config.parallel_config.pipeline_parallel_size > 1:
        raise UnsupportedError(
            f"pipeline parallel with the M-RoPE positions of {names[0]}: only the first stage "
            'learns which tokens were kept; use tensor parallel, or "positions": "compact"'
        )
    if positions == "preserved" and model.enable_prompt_embeds:
        raise UnsupportedError(
            f"--enable-prompt-embeds with the M-RoPE positions of {names[0]}: embeddings of a "
            "request's own have no place for the positions of kept tokens; use "
            '"positions": "compact", or leave it out'
        )
    if positions == "preserved" and config.speculative_config is not None:
        raise UnsupportedError(
            f"speculative decoding with the M-RoPE positions of {names[0]}: the draft model looks "
            'one token ahead of what vLLM tells; use "positions": "compact", or no draft model'
        )
    lora = config.lora_config
    if lora is not None and getattr(lora, "enable_tower_connector_lora", False):
        raise UnsupportedError(
            "LoRA in the vision tower takes its number of tokens from the pruned prompt: leave out "
            "--enable-tower-connector-lora"
        )
    if getattr(getattr(config, "compilation_config", None), "compile_mm_encoder", False):
        setattr(model.hf_config, COMPILED, True)
    if settings.stage is not None:
        check_stage(model.hf_config, mm, settings.stage)
    reason = why_no_mass(config) if settings.weighs else None
    if reason is not None:
        if settings.method != RECOMMENDED or given.get("allow_mass"):
            raise UnsupportedError(f'mass with {reason}; leave mass out, or give "mass": "none"')
        # Everywhere else, this is what is read, in the processor and in every worker.
        model.hf_config.otprune = {**given, "mass": "none"}
        settings = engine_settings(model.hf_config.otprune)
    manager = getattr(config, "ec_manager_config", None)
    if manager is not None and manager.encoder_cache_manager_cls is None:
        manager.encoder_cache_manager_cls = PACED
    open_folder(mm)
    _log_once(
        f"otprune: visual tokens of {names[0]} are pruned, {_listed(settings)}, "
        f"positions={positions}"
    )
    if caution is not None:
        _log_once(f"otprune: {caution}", logging.WARNING)
    if reason is not None:
        _log_once(f"otprune: recommended goes without mass here: {reason}")
    unknown = settings.selector.uses - {"weights", "question"}
    if unknown:
        _log_once(
            f"otprune: {settings.method} goes without {', '.join(sorted(unknown))} here, which "
            "transformers knows of the tokens: it keeps others than there"
        )
    if settings.method == RECOMMENDED:
        _log_once(
            "otprune: recommended has no distance term here: it differs between queries, which "
            "vLLM's attention cannot take"
        )


def why_no_mass(config: Any) -> str | None:
    """What in a configuration keeps tokens from having a mass; None if nothing does.

    What only the built model shows (its attention layers and their backend) is not in it.
    """
    model, parallel = config.model_config, config.parallel_config
    language = model.hf_text_config.model_type
    obstacles = [
        (
            language not in WEIGHING,
            f"a language model of type {language}: only {', '.join(WEIGHING)} are known to take it",
        ),
        (
            model.get_sliding_window() is not None,
            "a sliding window: not tested in vLLM's attention",
        ),
        (
            config.cache_config.cache_dtype not in UNQUANTISED,
            f"--kv-cache-dtype {config.cache_config.cache_dtype}: a quantised key cannot hold it",
        ),
        (
            parallel.pipeline_parallel_size > 1,
            "pipeline parallel: only the first stage is told which tokens weigh what",
        ),
        (
            parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1,
            "context parallel: not tested",
        ),
        (
            parallel.use_ubatching,
            "microbatches (--enable-dbo, --ubatch-size): they run parts of a step apart",
        ),
        (
            config.speculative_config is not None,
            "speculative decoding: the draft model's attention takes no mass",
        ),
        (
            config.kv_transfer_config is not None,
            "a KV connector: it would take the size of a head from the model's configuration",
        ),
        (
            model.enable_prompt_embeds,
            "--enable-prompt-embeds: embeddings of a request's own have no place for it",
        ),
        (
            model.multimodal_config.mm_encoder_only,
            "--mm-encoder-only: there is no language model",
        ),
    ]
    return next((reason for stops, reason in obstacles if stops), None)


def check_untested(config: Any, reason: str) -> None:
    """Refuse a configuration that asks for pruning, or warn where it allows unpruned serving."""
    given = getattr(config.model_config and config.model_config.hf_config, KEY, None)
    if given is None:
        return
    if engine_settings(given).untested_vllm == "refuse":
        raise UnsupportedError(
            f'{reason}; install that, or set "untested_vllm": "unpruned" to serve without pruning'
        )
    _log_once(f"otprune: {reason}: visual tokens are NOT pruned", logging.WARNING)


def _listed(settings: Settings) -> str:
    selector = settings.selector
    said: dict[str, Any] = {"keep": selector.keep}
    if repr(settings.video_keep) != repr(selector.keep):  # 1 token is not 1.0, all of them
        said["keep of videos"] = settings.video_keep
    said |= {"method": selector.name, **shown(selector), "merge": settings.merge}
    if settings.mass != "none":
        said |= {"mass": settings.mass, "alpha": settings.alpha}
    if settings.stage is not None:
        said |= {"encoder_keep": settings.stage.keep, "encoder_after": settings.stage.after}
    return ", ".join(f"{name}={value}" for name, value in said.items() if value is not None)


def _log_once(line: str, level: int = logging.INFO) -> None:
    if line not in _logged:
        _logged.add(line)
        logger.log(level, line)
