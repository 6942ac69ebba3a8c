"""The model's half: of every image's features, the ones to keep; and where those stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tp_group

from otprune.engines.vllm import private
from otprune.engines.vllm.prompt import (
    AXES,
    Place,
    full_prompt,
    grid_offsets,
    shifted,
    with_offsets,
    without_offsets,
)
from otprune.engines.vllm.selection import Kept, choose
from otprune.engines.vllm.settings import KEY, engine_settings


class PruningModel:
    """In front of one of vLLM's multimodal models, and that model where no pruning was asked for.

    Every method here is its parent's then, bit by bit, vLLM's own pruning of videos included; and
    the class claims nothing that the parent does not.

    stacked: see `Family`.
    """

    stacked = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        self.otprune = None if given is None else engine_settings(given)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Features of every image of one encoder run, kept ones alone where told so.

        vLLM never puts images and videos into one run.
        """
        rows = kwargs.pop(KEY, None)
        made = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if rows is None:
            return self._whole(made)
        kept = choose(
            list(made),
            [tuple(row) for row in rows.tolist()],
            width=self.visual_dim if self.stacked else None,  # type: ignore[attr-defined]
            agree=_same_on_all_ranks,
        )
        return self._pruned(kept, kwargs)

    def _whole(self, made: Any) -> Any:
        return made

    def _pruned(self, kept: list[Kept], kwargs: dict[str, Any]) -> list[Tensor]:
        return [image.rows for image in kept]

    def get_encoder_cudagraph_config(self) -> Any:
        """Captured encoder runs go past `embed_multimodal`: none where images are pruned."""
        config = super().get_encoder_cudagraph_config()  # type: ignore[misc]
        return config if self.otprune is None else replace(config, modalities=[])


class PruningMRoPEModel(PruningModel):
    """The same for positions of three axes.

    Text stands where it would stand behind the whole image, which only takes the image's size;
    so that much is final from the beginning, also where a prefix comes from the cache. A kept
    token's own time, row and column travel behind its features, and vLLM's hook for models that
    prune hands them back before the step in which they are needed. Until then its position is open:
    `~` of where its set begins, which is below zero and so told from one that is final.
    """

    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        self_places = given is not None and engine_settings(given).positions != "compact"
        if self_places:
            private.ask_for_positions(vllm_config.model_config.multimodal_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.places_tokens = self_places
        if self_places:
            self.supports_multimodal_pruning = True
            # To the parent this means its own pruning of videos.
            self.is_multimodal_pruning_enabled = False

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Positions `(3, n)` of a prompt, and what to add to the index of a token behind it.

        Preserved ones are the parent's for the whole prompt; those of kept tokens are open.
        Compact ones treat pruned images as text, so those of a prefix depend on that prefix
        alone.
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
        positions, behind = place(full, [_moved(f, places) for f in mm_features])
        positions = positions[:, columns]
        for p in places:
            positions[:, p.offset : p.offset + p.k] = ~positions[:, p.offset : p.offset + p.k]
        return positions, behind + len(full) - len(input_tokens)

    def _whole(self, made: Any) -> Any:
        if not self.places_tokens or made is None:
            return made
        return [with_offsets(x, x.new_zeros(AXES, len(x))) for x in made]

    def _pruned(self, kept: list[Kept], kwargs: dict[str, Any]) -> list[Tensor]:
        if not self.places_tokens:
            return super()._pruned(kept, kwargs)
        vision = self.config.vision_config
        (grids,) = (kwargs[x] for x in ("image_grid_thw", "video_grid_thw") if x in kwargs)
        given = kwargs.get("second_per_grid_ts")  # Qwen2.5-VL's videos
        seconds = [1.0] * len(kept) if given is None else given.flatten().tolist()
        rate = getattr(vision, "tokens_per_second", 1.0)
        merge = vision.spatial_merge_size
        return [
            with_offsets(x.rows, grid_offsets(x.indices, h // merge, w // merge, s * rate))
            for x, (_, h, w), s in zip(kept, grids.tolist(), seconds, strict=True)
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
            multimodal_embeddings: of this step, in prompt order, offsets behind them.
            mrope_positions: `(3, n)`; those that are open become final, once and for all.
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
            return [], mrope_positions, _behind(mrope_positions)
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
        return list(features), positions, _behind(positions)


def _places(feature: Any) -> list[Place]:
    """Where the sets of a pruned image stand; none for everything else."""
    if feature.data is None or KEY not in feature.data:
        return []
    _, m, k, *_ = feature.data[KEY].data.tolist()
    runs = feature.mm_position.extract_embeds_range()
    return [] if k == m else [Place(start, k, m) for start, _ in runs]


def _moved(feature: Any, places: Sequence[Place]) -> Any:
    """An image as it stands in the full prompt; where it begins is all that vLLM looks at."""
    at = feature.mm_position
    return replace(feature, mm_position=replace(at, offset=shifted(at.offset, places)))


def _behind(positions: Tensor) -> int:
    return int(positions.max()) + 1 - positions.shape[1]


def _same_on_all_ranks(x: Tensor) -> Tensor:
    """Rank 0's choice for a tensor-parallel group: nobody goes by rounding of his own."""
    group = get_tp_group()
    return x if group.world_size == 1 else group.broadcast(x.contiguous(), src=0)
