#!/usr/bin/env bash
# transformers 5.24.0: text behind a video in Qwen2-VL and Qwen2.5-VL gets M-RoPE positions inside the
# video's time. get_rope_index moves on by the larger of the video's height and width alone, so the
# text starts before the last frames' positions on the time axis. In 4.57.1 text
# followed the largest position of the video on all three axes, as in the code published with the
# models. One image has no time, so prompts with images are the same in both. Nothing raises.
# A video of 16 temporal patches, a second each, 4 x 6 tokens a patch; four tokens of text before it,
# three behind. Seen, torch 2.13.0, a CPU:
#   4.57.1 qwen2_vl: time of the video 4 to 19, text behind it 20 to 22
#   4.57.1 qwen2_5_vl: time of the video 4 to 34, text behind it 35 to 37
#   5.24.0 qwen2_vl: time of the video 4 to 19, text behind it 10 to 12
#   5.24.0 qwen2_5_vl: time of the video 4 to 34, text behind it 10 to 12
# Exits non-zero if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat > "$folder/positions.py" <<'PYTHON'
import torch
import transformers
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
)

VIDEO, START, END = 61, 62, 63
text = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "rope_type": "default", "mrope_section": [2, 1, 1]},
}
vision = {"depth": 1, "num_heads": 2, "spatial_merge_size": 2, "patch_size": 14}
sizes = {
    "qwen2_vl": {"embed_dim": 32, "hidden_size": 32},
    "qwen2_5_vl": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "out_hidden_size": 32,
        "tokens_per_second": 2,
    },
}
classes = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}
for name, (config_class, model_class) in classes.items():
    config = config_class(
        text_config=text,
        vision_config={**vision, **sizes[name]},
        image_token_id=60,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    model = model_class(config)
    ids = torch.tensor([[5, 6, 7, START, *[VIDEO] * (16 * 4 * 6), END, 8, 9]])
    given = {"input_ids": ids, "video_grid_thw": torch.tensor([[16, 8, 12]])}
    given["attention_mask"] = torch.ones_like(ids)
    if name == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([1.0])
    if transformers.__version__.startswith("5"):
        given["mm_token_type_ids"] = 2 * (ids == VIDEO).int()
    positions, _ = model.model.get_rope_index(**given)
    time = positions[0, 0][ids[0] == VIDEO]
    behind = positions[0, 0, -3:].tolist()
    print(
        f"{transformers.__version__} {name}: time of the video {int(time.min())} to "
        f"{int(time.max())}, text behind it {behind[0]} to {behind[-1]}"
    )
PYTHON

for version in 4.57.1 5.24.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install -q --disable-pip-version-check torch==2.13.0 \
    "transformers==$version"
  "$folder/$version/bin/python" "$folder/positions.py" | tee -a "$folder/seen"
done
diff "$folder/seen" - <<'SEEN'
4.57.1 qwen2_vl: time of the video 4 to 19, text behind it 20 to 22
4.57.1 qwen2_5_vl: time of the video 4 to 34, text behind it 35 to 37
5.24.0 qwen2_vl: time of the video 4 to 19, text behind it 10 to 12
5.24.0 qwen2_5_vl: time of the video 4 to 34, text behind it 10 to 12
SEEN
