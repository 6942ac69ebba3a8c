#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.24.0: generate() of a prefix-tuned model leaves the prefix out.
#
# PEFT hands the prefix to the first step as `past_key_values`. transformers 5.24 calls the argument
# `cache` and has put an empty one there already, which wins. The answer is as without the prefix
# (but for positions), and there is no error. model(...) of the same PEFT model has the prefix. With
# transformers 5.23.0 both have it.
#
# Seen: tokens in the cache when the first step begins: model(...) 4, generate(...) 0.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$dir/venv/bin/python" -W ignore - <<'PYTHON'
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=None,
)
torch.manual_seed(0)
model = LlamaForCausalLM(CONFIG).eval()
wrapped = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
seen = []


def look(module, args, kwargs):
    caches = [kwargs[n] for n in ("cache", "past_key_values") if kwargs.get(n) is not None]
    seen.append(caches[0].get_seq_length())


wrapped.get_base_model().model.register_forward_pre_hook(look, with_kwargs=True)
ids = torch.tensor([[1, 5, 6]])
inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
with torch.no_grad():
    wrapped(**inputs)
    wrapped.generate(**inputs, max_new_tokens=2, do_sample=False)
print("tokens in the cache when the first step begins: model(...)", seen[0], "generate(...)", seen[1])
assert seen[:2] == [4, 0], seen
PYTHON
