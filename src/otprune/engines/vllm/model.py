"""The model's part: selects among the features of every image, and places the kept tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tp_group

from otprune.engines.vllm import private
from otprune.engines.vllm.mass import KeyFeatures, with_log_mass, without_log_mass
from otprune.engines.vllm.prompt import (
    AXES,
    Place,
    full_prompt,
    grid_offsets,
    shifted,
    with_offsets,
    without_offsets,
)
from otprune.engines.vllm.rows import Plan, read
from otprune.engines.vllm.seconds import Recorder
from otprune.engines.vllm.selection import Kept, choose
from otprune.engines.vllm.settings import KEY, STAGE, engine_settings
from otprune.engines.vllm.tower import cells_of_images, staged
from otprune.errors import OTPruneError
from otprune.measures.cells import Cells


class PruningModel:
    """Mixed in before one of vLLM's multimodal models.

    Where no pruning is asked for, every method does what the parent's does, bit for bit, including
    vLLM's own pruning of videos, and the class declares no capability that the parent has not.

    stacked: see `Family`.
    """

    stacked = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        self.otprune = None if given is None else engine_settings(given)
        self.record_seconds = None
        if self.otprune is not None and get_tp_group().rank_in_group == 0:
            self.record_seconds = Recorder(vllm_config.model_config.multimodal_config)
        weighs = self.otprune is not None and self.otprune.weighs
        self.key_features = KeyFeatures(self, vllm_config) if weighs else None

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Features of every image of one encoder run; of pruned images those of the kept tokens.

        vLLM never puts images and videos into one run.
        """
        rows = kwargs.pop(KEY, None)
        kwargs.pop(STAGE, None)
        if rows is None:
            made = super().embed_multimodal(**kwargs)  # type: ignore[misc]
            return made if made is None else self._whole(self._weighed(made))
        plans = [read(row) for row in rows]  # a tensor, or a list where rows differ in length
        made, cells = self._encoded(plans, kwargs)
        width = self.visual_dim if self.stacked else None  # type: ignore[attr-defined]
        kept = choose(
            made,
            plans,
            width=width,
            agree=_same_on_all_ranks,
            cells=cells,
            questions=self._questions(plans, made[0][:, :width].shape[1], made[0].device),
            record=self.record_seconds,
        )
        weighed = self._weighed([x.rows for x in kept], [x.log_mass for x in kept])
        return self._placed(weighed, kept, kwargs)

    def _weighed(self, images: Any, log_masses: list[Tensor] | None = None) -> Any:
        """Features with the log mass of each token beside them, where the engine takes masses."""
        if self.key_features is None:
            return images
        if log_masses is None:
            log_masses = [x.new_zeros(len(x), dtype=torch.float32) for x in images]
        return list(map(with_log_mass, images, log_masses))

    def _encoded(
        self, plans: list[Plan], kwargs: dict[str, Any]
    ) -> tuple[list[Tensor], list[list[Cells] | None]]:
        """Features of every image, and what the stage inside the encoder kept of its sets."""
        embed = super().embed_multimodal  # type: ignore[misc]
        stage = plans[0].asked.stage
        if any(plan.asked.stage != stage for plan in plans):
            raise OTPruneError(
                "images with different selections inside the encoder came in one run of it"
            )
        if stage is None:
            return list(embed(**kwargs)), [None] * len(plans)
        with staged(self, stage, _same_on_all_ranks) as kept:
            made = list(embed(**kwargs))
        return made, cells_of_images(kept, [(plan.sets, plan.m) for plan in plans])

    def _questions(self, plans: list[Plan], width: int, device: Any) -> list[Tensor | None]:
        """Vectors `(n, d)` of each image's question, float32, by the language model's embeddings.

        They may be split among the ranks of a tensor-parallel group, which must then all ask for
        the same: so they do, since the plans are.
        """
        texts = [plan.asked.question for plan in plans]
        asked = [text for text in texts if text is not None]
        ids = [token for text in asked for token in text]
        if ids:
            embed = self.get_language_model().embed_input_ids  # type: ignore[attr-defined]
            vectors = embed(torch.tensor(ids, device=device)).float()
        else:
            vectors = torch.zeros(0, width, device=device)
        parts = iter(vectors.split([len(text) for text in asked]))
        return [None if text is None else next(parts) for text in texts]

    def _whole(self, made: Any) -> Any:
        return made

    def _placed(
        self, images: list[Tensor], kept: list[Kept], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        return images

    def embed_input_ids(
        self,
        input_ids: Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: Tensor | None = None,
    ) -> Tensor:
        """Embeddings of one step's tokens, whose masses its attention layers are told here.

        vLLM calls it before each step of a multimodal model, for all tokens of the step: with the
        features of this step's part of each image, and with none where all is text.
        """
        if self.key_features is not None:
            images, log_masses = multimodal_embeddings or (), []
            if len(images):
                multimodal_embeddings, log_masses = map(
                    list, zip(*map(without_log_mass, images), strict=True)
                )
            self.key_features.write(len(input_ids), log_masses, is_multimodal)
        embeddings: Tensor = super().embed_input_ids(  # type: ignore[misc]
            input_ids, multimodal_embeddings, is_multimodal=is_multimodal
        )
        return embeddings

    def get_encoder_cudagraph_config(self) -> Any:
        """No captured encoder runs where images are pruned: they bypass `embed_multimodal`."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self.otprune is None else replace(config, modalities=[])


class PruningMRoPEModel(PruningModel):
    """The same for models whose positions have three axes (M-RoPE).

    Text has the position that it would have after the whole image. That follows from the image's
    size, so it is final from the beginning, also where a prefix comes from the cache. The time, row
    and column of a kept token are appended to its features, and vLLM's hook for pruning models
    returns them before the step that needs them. Until then its position is open: the bitwise
    complement (`~`) of the position of its set's first token, which is negative and so differs from
    any final position.
    """

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        places_tokens = given is not None and engine_settings(given).positions != "compact"
        if places_tokens:
            private.ask_for_positions(vllm_config.model_config.multimodal_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.places_tokens = places_tokens
        if places_tokens:
            self.supports_multimodal_pruning = True
            # To the parent this means its own pruning of videos.
            self.is_multimodal_pruning_enabled = False

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Positions `(3, n)` of a prompt, and what to add to the index of a generated token.

        Preserved positions are the parent's for the unpruned prompt; those of kept tokens are open.
        Compact positions treat pruned images as text, so that the positions of a prefix depend on
        that prefix alone.
        """
        place = super().get_mrope_input_positions  # type: ignore[misc]
        pruned = {id(f): places for f in mm_features if (places := _places(f))}
        if not pruned:
            whole: tuple[Tensor, int] = place(input_tokens, mm_features)
            return whole
        if not self.places_tokens:
            compact: tuple[Tensor, int] = place(
                input_tokens, [f for f in mm_features if id(f) not in pruned]
            )
            return compact
        places = sorted((p for some in pruned.values() for p in some), key=lambda p: p.offset)
        full, columns = full_prompt(input_tokens, places)
        positions, behind = place(full, [_in_full_prompt(f, places) for f in mm_features])
        positions = positions[:, columns]
        for p in places:
            positions[:, p.offset : p.offset + p.k] = ~positions[:, p.offset : p.offset + p.k]
        return positions, behind + len(full) - len(input_tokens)

    def _whole(self, made: Any) -> Any:
        if not self.places_tokens:
            return made
        return [with_offsets(x, x.new_zeros(AXES, len(x))) for x in made]

    def _placed(
        self, images: list[Tensor], kept: list[Kept], kwargs: dict[str, Any]
    ) -> list[Tensor]:
        if not self.places_tokens:
            return super()._placed(images, kept, kwargs)
        vision = self.config.vision_config
        (grids,) = (kwargs[x] for x in ("image_grid_thw", "video_grid_thw") if x in kwargs)
        given = kwargs.get("second_per_grid_ts")  # Qwen2.5-VL's videos
        seconds = [1.0] * len(kept) if given is None else given.flatten().tolist()
        rate = getattr(vision, "tokens_per_second", 1.0)
        merge = vision.spatial_merge_size
        return [
            with_offsets(image, grid_offsets(x.indices, h // merge, w // merge, s * rate))
            for image, x, (_, h, w), s in zip(images, kept, grids.tolist(), seconds, strict=True)
        ]

    def recompute_mrope_positions(
        self,
        input_ids: list[int] | Tensor,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        """Features without their offsets, and positions with those of kept tokens made final.

        Args:
            input_ids: `(n,)` the prompt.
            multimodal_embeddings: of this step, in prompt order, with offsets appended.
            mrope_positions: `(3, n)`; open positions become final.
            num_computed_tokens: where this step begins.
        """
        if not self.places_tokens:  # vLLM's own pruning of videos; Qwen2-VL has none
            stock: tuple[Sequence[Tensor], Tensor, int] = super().recompute_mrope_positions(  # type: ignore[misc]
                input_ids=input_ids,
                multimodal_embeddings=multimodal_embeddings,
                mrope_positions=mrope_positions,
                num_computed_tokens=num_computed_tokens,
            )
            return stock
        if not multimodal_embeddings:
            return [], mrope_positions, _delta(mrope_positions)
        features, offsets = zip(*map(without_offsets, multimodal_embeddings), strict=True)
        positions = mrope_positions.clone()
        ids = torch.as_tensor(input_ids, device=positions.device)
        at = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        at[:num_computed_tokens] = False
        grid = torch.cat(offsets, dim=1).to(positions.device)
        columns = at.nonzero()[:, 0][: grid.shape[1]]
        is_open = positions[0, columns] < 0
        columns = columns[is_open]
        positions[:, columns] = ~positions[:, columns] + grid[:, is_open]
        return list(features), positions, _delta(positions)


def _places(feature: Any) -> list[Place]:
    """Where the sets of a pruned image are in the prompt; empty for everything else."""
    if feature.data is None or KEY not in feature.data:
        return []
    plan = read(feature.data[KEY].data)
    runs = feature.mm_position.extract_embeds_range()
    return [] if plan.k == plan.m else [Place(start, plan.k, plan.m) for start, _ in runs]


def _in_full_prompt(feature: Any, places: Sequence[Place]) -> Any:
    """An image with its offset in the full prompt, which is all that vLLM reads of it here."""
    at = feature.mm_position
    return replace(feature, mm_position=replace(at, offset=shifted(at.offset, places)))


def _delta(positions: Tensor) -> int:
    return int(positions.max()) + 1 - positions.shape[1]


def _same_on_all_ranks(x: Tensor) -> Tensor:
    """Rank 0's choice for all ranks of a tensor-parallel group, since their rounding may differ."""
    group = get_tp_group()
    return x if group.world_size == 1 else group.broadcast(x.contiguous(), src=0)
