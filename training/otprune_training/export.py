"""Make the embedded model of a training run: `python -m otprune_training.export RUN_DIR [OUT]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from otprune.demo import MODEL_DIR
from otprune_training.architecture import BOS, EOS, IMAGE, PAD, THETA, UNK, build
from otprune_training.processor import build_processor
from otprune_training.scenes import GRID, PATCH
from otprune_training.train import STAGES


def export(
    weights: dict[str, torch.Tensor] | None,
    folder: Path,
    theta: float = THETA,
    grid: int = GRID,
) -> None:
    """Write `folder` in fp16 safetensors, loadable by stock `from_pretrained` and by vLLM.

    Args:
        weights: state dict of the model; None writes it untrained.
        theta: base of its rotary embedding.
        grid: patches along a side of its image.
    """
    model: Any = build(seed=0, grid=grid, theta=theta)
    if weights is not None:
        model.load_state_dict(weights)
    settings = model.generation_config
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = BOS, EOS, PAD
    settings.max_new_tokens = 24
    settings.suppress_tokens = [PAD, BOS, IMAGE, UNK]
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    name_as_published(folder / "model.safetensors")
    build_processor(grid * PATCH).save_pretrained(folder)


def name_as_published(file: Path) -> None:
    """Name the weights of a CLIP or SigLIP tower as checkpoints on the Hugging Face hub do.

    transformers 5 reads both forms, and writes `vision_tower.embeddings...` for a model that was
    made from its configuration; vLLM reads only `vision_tower.vision_model.embeddings...`. A file
    without such a tower, or that has these names, stays as it is. No value changes.

    Args:
        file: safetensors of a whole LLaVA.
    """
    old = load_file(file)
    if "vision_tower.post_layernorm.weight" not in old:
        return
    # Copies, since the values that were loaded may still lie in the file that is written over.
    save_file(
        {
            name.replace("vision_tower.", "vision_tower.vision_model.", 1): value.clone()
            for name, value in old.items()
        },
        file,
        metadata={"format": "pt"},
    )


def main(run: Path, folder: Path, stage: str) -> None:
    state = torch.load(run / f"{stage}.pt", weights_only=True)
    prefix = "model."
    weights = {
        k.removeprefix(prefix): v for k, v in state["learner"].items() if k.startswith(prefix)
    }
    export(weights, folder, state.get("theta", THETA))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the embedded model of a training run.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=MODEL_DIR)
    parser.add_argument("--stage", choices=STAGES[1:], default=STAGES[-1])
    given = parser.parse_args()
    main(given.run, given.out, given.stage)
