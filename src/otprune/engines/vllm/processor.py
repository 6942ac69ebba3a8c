"""The processor's part: fewer placeholders, and a row with every image on how to prune it."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.hasher import MultiModalHasher
from vllm.multimodal.inputs import (
    MultiModalBatchedField,
    MultiModalFieldElem,
    MultiModalKwargsItems,
    MultiModalSharedField,
)
from vllm.multimodal.processing.processor import PromptUpdateDetails
from vllm.transformers_utils.config import try_get_generation_config

from otprune.engines.common.question import end_ids, special_ids
from otprune.engines.common.stage import EncoderStage
from otprune.engines.vllm import rows
from otprune.engines.vllm.counts import Item, count
from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.prompt import run_lengths, shorten
from otprune.engines.vllm.question import Question, questions
from otprune.engines.vllm.settings import (
    KEY,
    MODALITIES,
    STAGE,
    Settings,
    engine_settings,
    fingerprint,
    request_settings,
)
from otprune.engines.vllm.towers import check_stage, most_kept
from otprune.errors import CueError, OTPruneError, UnsupportedError

PLACEHOLDERS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")
GRIDS = ("image_grid_thw", "video_grid_thw")
_current: ContextVar[Prompt | None] = ContextVar("otprune_prompt", default=None)
_profiling: ContextVar[bool] = ContextVar("otprune_profiling", default=False)


@dataclass
class Prompt:
    """What is known of a prompt while it is processed.

    settings: how its items are pruned.
    questions: of all items by modality; None for those that are pruned without.
    missing: the same of the items that come from no cache.
    """

    settings: Settings
    questions: dict[str, list[Question | None]]
    missing: dict[str, list[Question | None]]


@dataclass
class ShortenedDetails(PromptUpdateDetails):  # type: ignore[misc]
    """What stands for one item in the prompt, with its visual tokens before and after pruning."""

    before: int = 0
    after: int = 0


class PruningProcessor:
    """Mixed in before one of vLLM's multimodal processors; does nothing where nothing is pruned."""

    info: Any

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Process one prompt, without otprune's settings in what Hugging Face's processor gets."""
        kwargs = dict(inputs.hf_processor_mm_kwargs)
        settings = self._settings(kwargs.pop(KEY, None))
        if settings is None:
            return super().apply(inputs, timing_ctx)  # type: ignore[misc]
        inputs = replace(inputs, hf_processor_mm_kwargs=kwargs)
        asked = self._questions(inputs, settings)
        before = _current.set(Prompt(settings, asked, asked))
        try:
            return super().apply(inputs, timing_ctx)  # type: ignore[misc]
        finally:
            _current.reset(before)

    def _settings(self, asked: object) -> Settings | None:
        given = getattr(self.info.get_hf_config(), KEY, None)
        if given is None:
            if asked is not None:
                raise UnsupportedError(
                    "this server was started without otprune: start it with --hf-overrides "
                    '\'{"otprune": {"keep": 1.0}}\' to let requests ask for pruning'
                )
            return None
        settings = engine_settings(given)
        if asked is None:
            return settings
        settings = request_settings(settings, asked)
        if settings.stage is not None:
            check_stage(self.info.get_hf_config(), self.info.ctx.get_mm_config(), settings.stage)
        return settings

    def _questions(self, inputs: Any, settings: Settings) -> dict[str, list[Question | None]]:
        """What is asked of each image and video, by modality; None where it does not matter."""
        numbers = inputs.mm_data_items.get_all_counts()
        counts = {modality: numbers[modality] for modality in MODALITIES if numbers.get(modality)}
        if not any(settings.hears(modality) for modality in counts):
            return {modality: [None] * count for modality, count in counts.items()}
        if self.info.ctx.get_mm_config().mm_encoder_only:
            raise UnsupportedError(
                f"method {settings.method} hears the question, and --mm-encoder-only has no "
                "embeddings of words: use a method that does without"
            )
        found: dict[str, list[Question]]
        if settings.text is None:
            updates = self._get_prompt_updates(  # type: ignore[attr-defined]
                mm_items=inputs.mm_data_items,
                hf_processor_mm_kwargs=inputs.hf_processor_mm_kwargs,
                out_mm_kwargs=MultiModalKwargsItems({}),
            )
            targets = {update.modality: update.target for update in updates}
            found = questions(inputs.prompt, targets, counts, *self._borders)
        else:
            asked = self._ids(settings.text)
            found = {modality: [asked] * count for modality, count in counts.items()}
        return {
            modality: [one if settings.hears(modality) else None for one in asked]
            for modality, asked in found.items()
        }

    @functools.cached_property
    def _borders(self) -> tuple[set[int], set[int], set[int]]:
        """Ids that end a turn, ids that are no text, and those of them that are placeholders."""
        model = self.info.ctx.model_config
        own = try_get_generation_config(
            model.hf_config_path or model.model, model.trust_remote_code, model.revision
        )
        configs = [own, model.hf_config, model.hf_text_config]
        known = [config for config in configs if config is not None]
        placeholders = {getattr(model.hf_config, name, -1) for name in PLACEHOLDERS}
        return end_ids(known), special_ids(known), placeholders

    def _ids(self, text: str | Question) -> Question:
        """Token ids of a text that a request gives."""
        if isinstance(text, str):
            return tuple(self.info.get_tokenizer().encode(text, add_special_tokens=False))
        words = self.info.ctx.model_config.get_vocab_size()
        if text and max(text) >= words:
            raise CueError(
                f"text has token id {max(text)}: the model's vocabulary has those from 0 to "
                f"{words - 1}"
            )
        return text

    def _get_mm_hashes(self, inputs: Any) -> Any:
        """Keys of every cache: of the image and of how it is pruned."""
        hashes = super()._get_mm_hashes(inputs)  # type: ignore[misc]
        prompt = _current.get()
        if prompt is None:
            return hashes
        algorithm = self.info.ctx.get_mm_config().mm_hasher_algorithm
        with_settings = {
            modality: [
                MultiModalHasher.hash_kwargs(
                    algorithm, mm_hash=name, otprune=fingerprint(prompt.settings, modality, asked)
                )
                for name, asked in zip(hashes[modality], every, strict=True)
            ]
            for modality, every in prompt.questions.items()
        }
        return {**hashes, **with_settings}

    def _get_cache_missing_items(self, cache: Any, mm_data_items: Any, mm_hashes: Any) -> Any:
        """Which items come from the cache, and the others."""
        is_cached, missing = super()._get_cache_missing_items(  # type: ignore[misc]
            cache=cache, mm_data_items=mm_data_items, mm_hashes=mm_hashes
        )
        prompt = _current.get()
        if prompt is not None:
            prompt.missing = {
                modality: [
                    one
                    for one, cached in zip(asked, is_cached[modality], strict=True)
                    if not cached
                ]
                for modality, asked in prompt.questions.items()
            }
        return is_cached, missing

    def _get_mm_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Any, out_mm_kwargs: Any
    ) -> Any:
        """What replaces each item's placeholder in the prompt, shortened for images and videos."""
        updates = super()._get_mm_prompt_updates(  # type: ignore[misc]
            mm_items=mm_items,
            hf_processor_mm_kwargs=hf_processor_mm_kwargs,
            out_mm_kwargs=out_mm_kwargs,
        )
        prompt = _current.get()
        if prompt is None:
            return updates
        config = self.info.get_hf_config()
        shortened = {
            modality: [
                [_shortened(update, item, prompt.settings, config, asked)]
                for item, (update,), asked in zip(
                    out_mm_kwargs[modality],
                    updates[modality],
                    prompt.missing[modality],
                    strict=True,
                )
            ]
            for modality in MODALITIES
            if updates.get(modality)
        }
        return {**updates, **shortened}

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        """Write the placeholders, and count them."""
        made = super()._maybe_apply_prompt_updates(mm_items=mm_items, mm_res=mm_res)  # type: ignore[misc]
        if not _profiling.get():
            written = [
                Item(modality, update.content.before, update.content.after)
                for modality, updates in mm_res.prompt_updates.items()
                for (update,) in updates
                if isinstance(update.content, ShortenedDetails)
            ]
            count(written, self.info.ctx.get_mm_config())
        return made

    def get_dummy_mm_inputs(self, *args: Any, **kwargs: Any) -> Any:
        """Made-up inputs, for vLLM's measurements and warm-up: not counted."""
        before = _profiling.set(True)
        try:
            return super().get_dummy_mm_inputs(*args, **kwargs)  # type: ignore[misc]
        finally:
            _profiling.reset(before)


def _shortened(
    update: Any, item: Any, settings: Settings, config: Any, asked: Question | None = None
) -> Any:
    """An update with fewer placeholders; the plan for it is added to `item`.

    vLLM never puts images with different shared fields into one run of the encoder, so a stage is
    one of them, and of its own.

    Placeholders in one run, with or without text around them, are one set of tokens. Where text
    separates the frames of a video, each frame is a set of its own, since the number of tokens kept
    of each frame must be known before any features exist.
    """
    ids, is_embed = update.content.full, update.content.is_embed
    is_token = [True] * len(ids) if is_embed is None else is_embed(ids).tolist()
    sets = run_lengths(is_token)
    m = sets[0]
    if sets != [m] * len(sets):
        raise OTPruneError(
            f"the placeholders of one {update.modality} are runs of {sets}, and otprune expects "
            "frames of one size: serve this checkpoint unpruned"
        )
    stage, most = settings.stage, None
    if stage is not None:
        most = _most_kept(item, stage, m, config)
        item[STAGE] = MultiModalFieldElem(
            data=rows.words(rows.stage_text(stage)),
            field=MultiModalSharedField(batch_size=1, keep_on_cpu=True),
        )
    plan = rows.plan(settings.asked_of(update.modality, asked), len(sets), m, most)
    item[KEY] = MultiModalFieldElem(
        data=rows.write(plan),
        field=MultiModalBatchedField(keep_on_cpu=True),
    )
    shortened = ShortenedDetails(
        shorten(ids, is_token, plan.k), is_embed, before=sum(is_token), after=plan.sets * plan.k
    )
    return update.with_content(shortened)


def _most_kept(item: Any, stage: EncoderStage, m: int, config: Any) -> int | None:
    if not any(name.startswith("pixel_values") for name in item):
        raise UnsupportedError(
            "encoder_keep with images or videos that are encoded already: the selection inside the "
            "encoder cannot reach them, leave it out"
        )
    grids = [item[name].data for name in GRIDS if name in item]
    grid = grids[0].flatten().tolist() if grids else None
    family = next(FAMILIES[name] for name in config.architectures if name in FAMILIES)
    return most_kept(config, family, stage, m, grid)


def register(model: type[Any]) -> type[Any]:
    """Register for `model` its parent's processor with `PruningProcessor` in front of it."""
    factories = model._processor_factory

    def build(info: Any, dummy_inputs: Any) -> Any:
        # A factory may choose among classes, so only what it builds tells which one to extend.
        parent: Any = type(factories.processor(info, dummy_inputs))
        pruning = type(f"Pruning{parent.__name__}", (PruningProcessor, parent), {})
        return pruning(info, dummy_inputs)

    wrap = MULTIMODAL_REGISTRY.register_processor(
        build, info=factories.info, dummy_inputs=factories.dummy_inputs
    )
    wrapped: type[Any] = wrap(model)
    return wrapped
