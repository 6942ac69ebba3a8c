#!/usr/bin/env bash
# transformers 5.24.0 (and 5.18.0, 5.23.0): `save_pretrained` of a LLaVA writes its CLIP tower under one
# of two names, by where the model came from. `save_original_format=True`, the default, is documented to
# save with the reverse mapping "even if the model was loaded from a None legacy checkpoint". For a model
# made from its configuration the language model's names are mapped back, the tower's are not; loaded from
# a checkpoint with the hub's names, both are. transformers itself reads either form, so a round trip
# there shows nothing; readers that know the hub's names alone (vLLM 0.32.0) refuse the first file.
#
# Seen:
#   made from a configuration: language_model.model.norm.weight, vision_tower.post_layernorm.weight
#   loaded from the hub's names: language_model.model.norm.weight, vision_tower.vision_model.post_layernorm.weight
#
# Exits with 0 while that is so, with another status once it changed.
set -euo pipefail

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q --disable-pip-version-check \
  torch==2.13.0 "transformers==${TRANSFORMERS:-5.24.0}"
HF_HUB_OFFLINE=1 "$place/venv/bin/python" - "$place" <<'PYTHON'
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

place = Path(sys.argv[1])
size = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
config = LlavaConfig(
    vision_config=CLIPVisionConfig(image_size=28, patch_size=14, **size),
    text_config=LlamaConfig(vocab_size=32, num_key_value_heads=2, **size),
    image_token_index=3,
)


def names(folder):
    found = load_file(folder / "model.safetensors")
    return [name for name in found if name.endswith(("model.norm.weight", "post_layernorm.weight"))]


made = place / "made"
LlavaForConditionalGeneration(config).save_pretrained(made)
first = names(made)
print("made from a configuration:", ", ".join(first))

weights = load_file(made / "model.safetensors")
published = {
    name.replace("vision_tower.", "vision_tower.vision_model."): value
    for name, value in weights.items()
}
save_file(published, made / "model.safetensors", metadata={"format": "pt"})
again = place / "again"
LlavaForConditionalGeneration.from_pretrained(made).save_pretrained(again)
second = names(again)
print("loaded from the hub's names:", ", ".join(second))

language = "language_model.model.norm.weight"
expected = (
    [language, "vision_tower.post_layernorm.weight"],
    [language, "vision_tower.vision_model.post_layernorm.weight"],
)
sys.exit((first, second) != expected)
PYTHON
