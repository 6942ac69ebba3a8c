"""The embedded model with 324 tokens an image: `python -m otprune_training.dense RUN_DIR [OUT]`.

Its images are 144 pixels wide instead of 96, of patches of the same 8 pixels. Only the vision tower
is trained; projector and language model are those of the embedded model, unchanged. The tower
starts as the embedded one, with position embeddings interpolated to the finer grid. It learns to
put out at each patch what the embedded tower says there about the same scene at 96 pixels,
interpolated between its patches.

Trained by step count; every batch depends on (seed, step) alone. An interrupted run goes on from
its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from otprune.demo import DENSE_DIR, load
from otprune_training import photos as photographs
from otprune_training.architecture import build
from otprune_training.batches import RESIZE, normalise
from otprune_training.export import export
from otprune_training.scenes import GRID, PATCH, SIZE, owners, render, sample_scene

DENSE = 18  # patches along a side
SEED = 20261127
STEPS, BATCH = 500, 4
WARM, DECAY_FROM = 20, 0.3  # steps of warm-up; share of the steps after which the rate falls
MUON_RATE, ADAM_RATE = 0.005, 5e-4
SAVE_EVERY = 50


def enlarged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The embedded model's weights, with position embeddings for `DENSE` x `DENSE` patches."""
    (name,) = (name for name in weights if name.endswith("position_embedding.weight"))
    first, rest = weights[name][:1], weights[name][1:]
    return weights | {name: torch.cat([first, interpolated(rest[None], "bicubic")[0]])}


def interpolated(patches: Tensor, mode: str = "bilinear") -> Tensor:
    """(B, GRID * GRID, d) of a grid's patches -> (B, DENSE * DENSE, d)."""
    grid = patches.mT.unflatten(-1, (GRID, GRID))
    return F.interpolate(grid, (DENSE, DENSE), mode=mode, align_corners=False).flatten(2).mT


def draw(
    photos: Sequence[Image.Image], seed: tuple[int, ...], size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`size` scenes for training.

    Every other batch has stickers in colours without a name, as in stage "vision".

    Returns:
        Images of 144 pixels `(B, 3, 144, 144)`, with a little noise; the same of 96 pixels,
        without; and `(B, 324)` bool, whether a patch of the first is a sticker's.
    """
    rng = np.random.default_rng(seed)
    sizes = [photo.size for photo in photos]
    fine, coarse, sticker = [], [], []
    for _ in range(size):
        scene = sample_scene(rng, sizes, free=seed[-1] % 2 > 0)
        image = render(scene, photos, scale=4)
        width = DENSE * PATCH
        small = image.resize((width, width), RESIZE[rng.integers(3)])
        noise = rng.normal(0, rng.uniform(0, 4), (width, width, 3))
        noisy = np.clip(np.asarray(small) + noise, 0, 255).astype(np.uint8)
        fine.append(normalise(Image.fromarray(noisy)))
        coarse.append(normalise(image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
        sticker.append(owners(scene, DENSE) >= 0)
    made = [torch.from_numpy(np.stack(some)) for some in (fine, coarse, sticker)]
    return made[0], made[1], made[2]


class Learner(nn.Module):
    """The tower that learns, for images of 144 pixels, and its losses.

    `embedded` is what it learns from. Its parameters are not this module's.
    """

    def __init__(self, tower: nn.Module, embedded: Any) -> None:
        super().__init__()
        self.tower = tower
        self._embedded = [embedded]  # a list, so that it is no submodule

    def forward(self, fine: Tensor, coarse: Tensor, sticker: Tensor) -> dict[str, Tensor]:
        """Mean squared differences on stickers and on photographs, of features and of tokens.

        Each is divided by the variance of what is to be learnt.
        """
        (embedded,) = self._embedded
        project = embedded.multi_modal_projector
        with torch.no_grad():
            wanted = interpolated(embedded.vision_tower(coarse).last_hidden_state[:, 1:])
            wanted_tokens = project(wanted)
        made = self.tower(fine).last_hidden_state[:, 1:]
        losses = {}
        for name, weight, a, b in (
            ("feature", 0.3, made, wanted),
            ("token", 1.0, project(made), wanted_tokens),
        ):
            error = weight * ((a - b) ** 2).mean(-1) / b.var((0, 1)).mean()
            losses[f"{name}, sticker"] = error[sticker].mean()
            losses[f"{name}, photograph"] = 0.3 * error[~sticker].mean()
        return losses


class Muon(torch.optim.Optimizer):
    """Muon (Keller Jordan, 2024) as in torch, but in float32: CPUs are often slow in bfloat16."""

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                state = self.state[matrix]
                mean = state.setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                update = _orthogonal(matrix.grad.lerp(mean, group["momentum"]))
                rows, columns = matrix.shape
                matrix.sub_(update, alpha=group["lr"] * max(1, rows / columns) ** 0.5)


def _orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of the singular value decomposition, by five Newton-Schulz steps."""
    wide: Tensor = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    wide = wide / wide.norm().clamp_min(1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.mT


def _optimisers(learner: Learner) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    named = list(learner.named_parameters())
    matrix = [p for n, p in named if p.ndim == 2 and "layers" in n]
    chosen = {id(p) for p in matrix}
    rest = [p for _, p in named if id(p) not in chosen]
    return [
        Muon(matrix, lr=MUON_RATE),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rates: warm up, hold, fall to one hundredth."""
    if step < WARM:
        return (step + 1) / WARM
    done = step / steps
    return 1.0 if done < DECAY_FROM else max(0.01, (1 - done) / (1 - DECAY_FROM))


def train(learner: Learner, folder: Path, steps: int) -> None:
    """Train to the last step, from the last checkpoint if there is one."""
    optimisers, start = _optimisers(learner), 0
    checkpoint = folder / "dense.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["learner"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        start = state["step"]
    photos = photographs.load(folder / "photos", held_out=False)
    began = time.time()
    mean: dict[str, float] = {}
    for step in range(start, steps):
        for optimiser, base in zip(optimisers, (MUON_RATE, ADAM_RATE), strict=True):
            optimiser.param_groups[0]["lr"] = base * _rate(step, steps)
        losses = learner(*draw(photos, (SEED, step), BATCH))
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        for name, loss in losses.items():
            mean[name] = mean.get(name, loss.item()) * 0.96 + loss.item() * 0.04
        done = step + 1
        if done % 25 == 0:
            line: dict[str, Any] = {"stage": "dense", "step": done}
            line["seconds"] = round(time.time() - began, 1)
            line |= {name: round(value, 4) for name, value in mean.items()}
            with (folder / "dense.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if done % SAVE_EVERY == 0 or done == steps:
            state = {"learner": learner.state_dict(), "step": done}
            state["optimisers"] = [optimiser.state_dict() for optimiser in optimisers]
            torch.save(state, folder / "partial")
            (folder / "partial").rename(checkpoint)


def main(run: Path, folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    embedded: Any = load()[0].requires_grad_(False)
    model = build(seed=0, grid=DENSE)
    model.load_state_dict(enlarged(embedded.state_dict()))
    train(Learner(model.model.vision_tower, embedded.model), run, steps)
    export(model.state_dict(), folder, grid=DENSE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the embedded model of 324 tokens.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=DENSE_DIR)
    parser.add_argument("--steps", type=int, default=STEPS)
    given = parser.parse_args()
    main(given.run, given.out, given.steps)
