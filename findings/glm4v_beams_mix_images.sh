#!/usr/bin/env bash
# transformers 5.24.0 (and 5.23.0): Glm4vForConditionalGeneration.generate() with two beams and two
# images in a prompt answers from the wrong images. Its own _expand_multimodal_outputs repeats image
# by image, [A, A, B, B], where each of the two copies of the prompt needs [A, B]: one copy then shows
# A twice, the other B twice. With images of one size nothing raises. The general method in
# generation/utils.py repeats them rightly; Glm46V, Glm4vMoe and GlmOcr override it likewise.
# With one new token, a beam's score must be the token's log-probability. Seen, torch 2.13.0, a CPU:
#   one image: beam score 4.8e-07 from forward()
#   two images: beam score 2.0e+00 from forward()
# Exits non-zero if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0

cat > "$folder/ask.py" <<'PYTHON'
import sys

import torch
from transformers import Glm4vConfig, Glm4vForConditionalGeneration

IMAGE = 60
text = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": None,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 1.0,
    },
}
vision = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "out_hidden_size": 32,
    "depth": 2,
    "num_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
config = Glm4vConfig(
    text_config=text,
    vision_config=vision,
    image_token_id=IMAGE,
    video_token_id=61,
    image_start_token_id=62,
    image_end_token_id=63,
)
torch.manual_seed(0)
model = Glm4vForConditionalGeneration(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)


def apart(images: int) -> float:
    """How far the score of the best beam is from forward()'s log-probability."""
    row = [5, 6]
    for _ in range(images):
        row += [62, *[IMAGE] * 4, 63]
    ids = torch.tensor([[*row, 7, 8]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.randn(16 * images, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * images),
    }
    with torch.no_grad():
        out = model.generate(
            **inputs,
            max_new_tokens=1,
            num_beams=2,
            do_sample=False,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        wanted = model(**inputs).logits[0, -1].log_softmax(-1)[out.sequences[0, -1]]
    return abs(float(out.sequences_scores[0] - wanted))


one, two = apart(1), apart(2)
print(f"one image: beam score {one:.1e} from forward()")
print(f"two images: beam score {two:.1e} from forward()")
sys.exit(not (one < 1e-4 and two > 1e-2))
PYTHON
"$folder/venv/bin/python" "$folder/ask.py"
