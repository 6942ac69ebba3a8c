"""How far the features of a pretrained ViT-S/14 move when tokens are dropped inside it."""

from __future__ import annotations

import copy
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from otprune.encoders import vit_s
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers.tower import staged
from otprune_bench.embedded import photographs
from otprune_bench.embedded.tasks import noise_images
from otprune_bench.encoder.plan import Plan, Stage
from otprune_bench.methods import Choose


class Photographs:
    """The photographs of a run, and the hidden states of the unpruned encoder."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self._folder = folder
        self._size, self._states = 0, list[dict[int, Tensor]]()

    @cached_property
    def encoder(self) -> vit_s.ViTS:
        return vit_s.load()

    @cached_property
    def _images(self) -> list[Image.Image]:
        if not self.plan.photographs:
            return noise_images(self.plan.photos, self.plan.seed)
        return photographs.load(self._folder)[: self.plan.photos]

    @cache  # noqa: B019 - lives as long as the run
    def _layers(self, size: int) -> frozenset[int]:
        return frozenset(stage.after for stage in dict(self.plan.features)[size])

    def states(self, size: int) -> list[dict[int, Tensor]]:
        """For each photograph, layer to hidden state `(1, 1 + m, d)`; of one size at a time."""
        if size != self._size:
            wanted = self._layers(size) | {vit_s.LAYER}
            self._size, self._states = size, []
            for image in self._images:
                with torch.no_grad():
                    out = self.encoder.model(vit_s.pixels(image, size), output_hidden_states=True)
                self._states.append({i: out.hidden_states[i] for i in wanted})
        return self._states

    @torch.no_grad()
    def measured(self, size: int, stage: Stage, choose: Choose) -> dict[str, list[float]]:
        """One case: the errors of each photograph, see `errors`, and of its class token."""
        rest = Rest(self.encoder.model, stage.after, vit_s.LAYER)
        states = self.states(size)
        full = torch.stack([each[vit_s.LAYER][0] for each in states])
        spread = (full[:, 0] - full[:, 0].mean(0)).square().sum(-1).mean()
        found: dict[str, list[float]] = {"kept": [], "all": [], "class": []}
        for i, (each, expected) in enumerate(zip(states, full, strict=True)):
            selector = choose(stage.keep, i)
            inside = EncoderStage(selector=selector, after=0, mass=stage.mass)
            with staged(rest.model, inside) as calls:
                out = rest(each[stage.after], size)[0]
            for name, value in errors(out, expected, calls[0].cells[0].kept).items():
                found[name].append(value)
            moved = (out[0] - expected[0]).square().sum() / spread
            found["class"].append(float(moved))
        return found


def errors(found: Tensor, full: Tensor, kept: Tensor) -> dict[str, float]:
    """Relative squared errors of patch tokens.

    `sum |f - f_full|^2 / sum |f_full - mean|^2`, both sums over the same tokens, mean the mean of
    all patch tokens of `full`. "kept": over the kept tokens. "all": over all, dropped tokens with
    the feature of the kept token that they belong to.

    Args:
        found, full: `(1 + m, d)`, class token first.
        kept: `(k,)`, counted without the class token.
    """
    f, t = found[1:], full[1:]
    moved = (f - t).square().sum(-1)
    size = (t - t.mean(0)).square().sum(-1)
    return {
        "kept": float(moved[kept].sum() / size[kept].sum()),
        "all": float(moved.sum() / size.sum()),
    }


class Rest:
    """Layers `first` to `last` of a Dinov2Model as an encoder of its own, parameters shared.

    With it a stage that comes late does not run the layers before it again.
    """

    def __init__(self, model: Any, first: int, last: int) -> None:
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = 1
        self.model = type(model)(config).eval()
        self.model.encoder.layer = model.encoder.layer[first:last]
        self.model.embeddings = self._given = _Given()
        self.model.layernorm = nn.Identity()

    def __call__(self, hidden: Tensor, size: int) -> Tensor:
        """From the hidden states that enter `first` to those that leave the last layer."""
        self._given.hidden = hidden
        # Of the pixels only the size is looked at.
        found: Tensor = self.model(hidden.new_empty(1, 3, size, size)).last_hidden_state
        return found


class _Given(nn.Module):
    """Embeddings that are given."""

    hidden: Tensor

    def forward(self, pixel_values: Tensor, bool_masked_pos: Any = None) -> Tensor:
        return self.hidden
