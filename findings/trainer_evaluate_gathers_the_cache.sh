#!/usr/bin/env bash
# transformers 5.24.0: Trainer.evaluate with compute_metrics fails on a LLaVA that 5.23.0 evaluates.
#
# What a model returns besides the logits is gathered too, unless the config names it in
# `keys_to_ignore_at_inference`; LLaVA's names nothing. In 5.24 the encoder's whole output came into
# the model's output (`image_outputs`), with fields that are None, and gathering raises. Passing
# ignore_keys to evaluate() helps.
#
# Seen: TypeError "Unsupported types (<class 'NoneType'>) ..."; with ignore_keys: eval_loss.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 accelerate==1.15.0 pillow
"$dir/venv/bin/python" -W ignore - <<'PYTHON'
import tempfile
import torch
from transformers import (
    LlavaConfig, LlavaForConditionalGeneration, Trainer, TrainingArguments,
)

torch.manual_seed(0)
text = dict(
    model_type="llama", vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
    num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
vision = dict(
    model_type="clip_vision_model", hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, image_size=28, patch_size=14, projection_dim=32,
)
config = LlavaConfig(
    text_config=text, vision_config=vision, image_token_index=60, vision_feature_layer=-2,
    image_seq_length=4,
)
model = LlavaForConditionalGeneration(config).eval()
ids = torch.tensor([1, 60, 60, 60, 60, 7, 8])
row = {"input_ids": ids, "labels": ids.masked_fill(ids == 60, -100),
       "attention_mask": torch.ones_like(ids), "pixel_values": torch.randn(3, 28, 28)}
arguments = TrainingArguments(
    tempfile.mkdtemp(), per_device_eval_batch_size=2, report_to=[], use_cpu=True,
    remove_unused_columns=False, label_names=["labels"],
)
trainer = Trainer(model, arguments, eval_dataset=[row, row], compute_metrics=lambda prediction: {})
try:
    trainer.evaluate()
except TypeError as error:
    print("TypeError", error)
    assert "NoneType" in str(error), error
else:
    raise SystemExit("evaluate() works now")
names = ["cache", "image_outputs", "image_hidden_states"]
assert "eval_loss" in trainer.evaluate(ignore_keys=names)
print("with ignore_keys: eval_loss")
PYTHON
