"""The models of a soak: a small random Qwen2.5-VL with weights of its own, the embedded one."""

from __future__ import annotations

from pathlib import Path

from otprune_bench.served.model import QWEN as NAMES
from otprune_bench.served.model import SPECIAL, Size, qwen
from otprune_bench.soak.plan import MOST

SIZE = Size(layers=2, width=64, heads=2, mlp=128)
TOWER = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 2}


def save_qwen(folder: Path) -> None:
    """Write the random Qwen2.5-VL.

    Its weights are large, so that an answer depends on the image; no special token is ever likely.
    """
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    config, processor = qwen(SIZE, TOWER, MOST)
    model = Qwen2_5_VLForConditionalGeneration(config).float()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2, generator=generator)
        rows = processor.tokenizer.convert_tokens_to_ids([*SPECIAL, *NAMES])
        model.get_output_embeddings().weight[rows] = 0
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
