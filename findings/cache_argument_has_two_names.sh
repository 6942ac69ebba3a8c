#!/usr/bin/env bash
# transformers 5.24.0: the cache reaches a forward hook under a name that depends on who called.
#
# 5.24 renamed `past_key_values` to `cache` and keeps the old name as an alias. The alias is resolved
# inside forward(), behind the hooks. So a forward pre-hook (with_kwargs=True) of one model sees
# `past_key_values` when the caller wrote that to model(...), and `cache` in every call that
# generate() makes, also when generate() was given `past_key_values`. A hook that looks for one name
# finds no cache in half of the calls, without an error.
#
# Seen: model(...): ['past_key_values']; generate(...): ['cache'].
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0
"$dir/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
torch.manual_seed(0)
model = LlamaForCausalLM(CONFIG).eval()
seen = []
names = ("cache", "past_key_values")
model.register_forward_pre_hook(
    lambda module, args, kwargs: seen.append([n for n in names if kwargs.get(n) is not None]),
    with_kwargs=True,
)
ids = torch.tensor([[1, 5, 6]])
with torch.no_grad():
    model(input_ids=ids, past_key_values=DynamicCache())
    by_hand, seen[:] = list(seen), []
    model.generate(input_ids=ids, past_key_values=DynamicCache(), max_new_tokens=2, do_sample=False)
print("model(...):", by_hand[0], "generate(...):", seen[0])
assert by_hand == [["past_key_values"]], by_hand
assert seen == [["cache"]] * 2, seen
PYTHON
