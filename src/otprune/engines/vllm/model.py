"""The model's half: of every image's features, the ones to keep; and where those stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import get_tp_group
from vllm.multimodal.inputs import PlaceholderRange

from otprune.engines.vllm import private
from otprune.engines.vllm.prompt import Place, full_prompt, shifted, with_offsets, without_offsets
from otprune.engines.vllm.selection import Kept, choose
from otprune.engines.vllm.settings import KEY, engine_settings


class PruningModel:
    """In front of one of vLLM's multimodal models; itself again where nothing is pruned.

    stacked: see `Family`.
    """

    stacked = False

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        self.otprune = None if given is None else engine_settings(given)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Features of every image or video of one encoder run, kept ones alone where told so."""
        rows = kwargs.pop(KEY, None)
        made = super().embed_multimodal(**kwargs)  # type: ignore[misc]
        if rows is None:
            return self._whole(made)
        images: list[Tensor] = list(made)
        kept = choose(
            images,
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

    Text stands where it would stand behind the whole image, which only takes the image's size; so
    that much is final from the beginning, also where a prefix comes from the cache. A kept token's
    own row and column travel behind its features, and vLLM's hook for models that prune hands them
    back before the step in which they are needed.
    """

    supports_multimodal_pruning = True
    config: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        given = getattr(vllm_config.model_config.hf_config, KEY, None)
        self_places = given is not None and engine_settings(given).positions != "compact"
        if self_places:
            private.ask_for_positions(vllm_config.model_config.multimodal_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.places_tokens = self_places
        if self_places:
            # To the parent this means its own pruning of videos.
            self.is_multimodal_pruning_enabled = False

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        """Positions `(3, n)` of a prompt, and what to add to the index of a token behind it.

        Preserved ones are the parent's for the whole prompt; those of kept tokens are provisional.
        Compact ones treat pruned images as text, so those of a prefix depend on that prefix alone.
        """
        place = super().get_mrope_input_positions  # type: ignore[misc]
        pruned = {id(f): p for f in mm_features if (p := _place(f)) is not None}
        if not pruned:
            whole: tuple[Tensor, int] = place(input_tokens, mm_features)
            return whole
        if not self.places_tokens:
            compact: tuple[Tensor, int] = place(
                input_tokens, [f for f in mm_features if id(f) not in pruned]
            )
            return compact
        places = sorted(pruned.values(), key=lambda p: p.offset)
        full, columns = full_prompt(input_tokens, places)
        features = []
        for feature in mm_features:
            at, p = feature.mm_position, pruned.get(id(feature))
            moved = PlaceholderRange(
                offset=shifted(at.offset, places),
                length=at.length if p is None else p.m,
                is_embed=at.is_embed,
            )
            features.append(replace(feature, mm_position=moved))
        positions = place(full, features)[0][:, columns]
        return positions, _behind(positions)

    def _whole(self, made: Any) -> Any:
        if not self.places_tokens or made is None:
            return made
        return [with_offsets(features, None, 1) for features in made]

    def _pruned(self, kept: list[Kept], kwargs: dict[str, Any]) -> list[Tensor]:
        if not self.places_tokens:
            return super()._pruned(kept, kwargs)
        merge = self.config.vision_config.spatial_merge_size
        return [
            with_offsets(image.rows, image.indices, int(grid[2]) // merge)
            for image, grid in zip(kept, kwargs["image_grid_thw"].tolist(), strict=True)
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
            mrope_positions: `(3, n)`; time is final, height and width are added to it.
            num_computed_tokens: where this step begins.
        """
        if not multimodal_embeddings:
            return [], mrope_positions, _behind(mrope_positions)
        features, offsets, known = zip(*map(without_offsets, multimodal_embeddings), strict=True)
        positions = mrope_positions.clone()
        moved = torch.cat(known).to(positions.device)
        ids = torch.as_tensor(input_ids, device=positions.device)
        at = (ids == self.config.image_token_id) | (ids == self.config.video_token_id)
        at[:num_computed_tokens] = False
        columns = at.nonzero()[:, 0][: len(moved)][moved]
        grid = torch.cat(offsets, dim=1).to(positions.device)[:, moved]
        positions[1:, columns] = positions[:1, columns] + grid
        return list(features), positions, _behind(positions)


def _place(feature: Any) -> Place | None:
    """Where a pruned image stands; None for everything else."""
    if feature.data is None or KEY not in feature.data:
        return None
    m, k, *_ = feature.data[KEY].data.tolist()
    return None if k == m else Place(feature.mm_position.offset, k, m)


def _behind(positions: Tensor) -> int:
    return int(positions.max()) + 1 - positions.shape[1]


def _same_on_all_ranks(x: Tensor) -> Tensor:
    """Rank 0's choice for a tensor-parallel group: nobody goes by rounding of his own."""
    group = get_tp_group()
    return x if group.world_size == 1 else group.broadcast(x.contiguous(), src=0)
