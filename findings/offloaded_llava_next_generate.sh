#!/usr/bin/env bash
# transformers 5.24.0 with accelerate 1.15.0: an offloaded LLaVA-NeXT answers forward(), not generate().
#
# accelerate's cpu_offload brings a module's own weights when its forward() is called. generate()
# encodes the image first, by a method of the inner model that is not its forward(), and the weights
# that belong to the inner model itself (image_newline) are still on the meta device.
#
# Seen: forward: (1, 59, 64); generate: NotImplementedError "Cannot copy out of meta tensor; no data!".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
"$dir/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from accelerate import cpu_offload
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

torch.manual_seed(0)
text = dict(
    model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
vision = dict(
    model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, image_size=56, patch_size=14, projection_dim=32,
)
config = LlavaNextConfig(
    text_config=text, vision_config=vision, image_token_index=60, image_seq_length=16,
    image_grid_pinpoints=[[56, 112], [112, 56], [112, 112]],
)
model = LlavaNextForConditionalGeneration(config).eval()
cpu_offload(model)
ids = torch.tensor([[1, *[60] * 56, 7, 8]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids),
          "pixel_values": torch.randn(1, 5, 3, 56, 56), "image_sizes": torch.tensor([[100, 60]])}
with torch.no_grad():
    print("forward:", tuple(model(**inputs).logits.shape))
    try:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
    except NotImplementedError as error:
        print("generate:", type(error).__name__, error)
        assert "meta tensor" in str(error), error
    else:
        raise SystemExit("generate() works now")
PYTHON
