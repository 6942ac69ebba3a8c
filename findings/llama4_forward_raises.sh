#!/usr/bin/env bash
# transformers 5.24.0: Llama4ForConditionalGeneration.forward() raises on every input, on plain text
# too: it hands `image_outputs` of its language model's output on, which has no such field. 5.23.0
# answers the same call. Seen with torch 2.13.0 on a CPU:
#   5.23.0: logits (1, 4, 64)
#   5.24.0: AttributeError 'MoeCausalLMOutputWithPast' object has no attribute 'image_outputs'
# Exits non-zero if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip="$folder/venv/bin/pip install -q --disable-pip-version-check"

cat > "$folder/ask.py" <<'PYTHON'
import sys

import torch
import transformers
from transformers import Llama4Config, Llama4ForConditionalGeneration

sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
text = {
    **sizes,
    "vocab_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size_mlp": 64,
    "num_local_experts": 2,
    "pad_token_id": 0,
}
vision = {
    **sizes,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}
config = Llama4Config(text_config=text, vision_config=vision, image_token_index=60)
model = Llama4ForConditionalGeneration(config).eval()
try:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits
    found = f"logits {tuple(logits.shape)}"
except AttributeError as error:
    found = f"AttributeError {error}"
print(f"{transformers.__version__}: {found}")
sys.exit(sys.argv[1] not in found)
PYTHON

$pip torch==2.13.0 transformers==5.23.0
"$folder/venv/bin/python" "$folder/ask.py" "logits (1, 4, 64)"
$pip transformers==5.24.0
"$folder/venv/bin/python" "$folder/ask.py" "has no attribute 'image_outputs'"
