"""Make the embedded model of a training run: `python -m otprune.demo.export RUN_DIR [OUT]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from otprune.demo import MODEL_DIR
from otprune.demo.architecture import BOS, EOS, IMAGE, PAD, UNK, build
from otprune.demo.processor import build_processor


def export(weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
    """Write `folder` in fp16 safetensors, loadable by stock `from_pretrained`.

    Args:
        weights: state dict of the model; None writes it untrained.
    """
    model: Any = build(seed=0)
    if weights is not None:
        model.load_state_dict(weights)
    settings = model.generation_config
    settings.bos_token_id, settings.eos_token_id, settings.pad_token_id = BOS, EOS, PAD
    settings.max_new_tokens = 24
    settings.suppress_tokens = [PAD, BOS, IMAGE, UNK]
    model.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    build_processor().save_pretrained(folder)


def main(run: Path, folder: Path) -> None:
    state = torch.load(run / "language.pt", weights_only=True)["learner"]
    prefix = "model."
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    export(weights, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else MODEL_DIR)
