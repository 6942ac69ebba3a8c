#!/usr/bin/env bash
# transformers 5.24.0 (5.23.0 too): a model that was once asked for hidden states cannot be pickled.
#
# The first call with output_hidden_states=True leaves hooks on the model's modules, functions local
# to transformers, and they stay. pickle and torch.save(model) raise from then on; copy.deepcopy and
# save_pretrained still work. A LLaVA asks its vision tower so in every call with an image.
#
# Seen: before: pickled; after one call: AttributeError "Can't pickle local object ...".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$dir/venv/bin/python" -W ignore - <<'PYTHON'
import pickle
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
torch.manual_seed(0)
model = LlamaForCausalLM(CONFIG).eval()
pickle.dumps(model)
print("before: pickled")
with torch.no_grad():
    model(input_ids=torch.tensor([[1, 5, 6]]), output_hidden_states=True)
try:
    pickle.dumps(model)
except (AttributeError, pickle.PicklingError) as error:
    print("after one call:", type(error).__name__, error)
    assert "local object" in str(error), error
else:
    raise SystemExit("a called model can be pickled now")
PYTHON
