"""A task for lmms-eval that needs no hub: questions that the embedded model can answer.

    python -m otprune_bench.stickers FOLDER
    lmms-eval --model otprune_hf --model_args keep=0.098 \\
        --include_path FOLDER --tasks otprune_stickers

It shows that an installation works from end to end; it is not a benchmark.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from otprune_bench.embedded.tasks import make, noise_images

TASK = "otprune_stickers"

_CONFIG = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.images
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  max_new_tokens: 8
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: false
metadata:
  - version: 1.0
"""

_FUNCTIONS = """\
from PIL import Image


def images(doc):
    return [Image.open(doc["image"]).convert("RGB")]
"""


def write(folder: Path, number: int = 20, seed: int = 0) -> None:
    """Write the task: its YAML, its functions, `number` images and the questions about them.

    Paths in it are absolute: write it anew rather than moving it.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, task in enumerate(make(noise_images(8, seed), number, seed)):
        image = folder / f"{i:04}.png"
        task.image.save(image)
        for question in task.questions:
            doc = {
                "image": str(image),
                "kind": question.kind,
                "question": question.text,
                "answer": question.answer,
            }
            lines.append(json.dumps(doc) + "\n")
    data = folder / "questions.jsonl"
    data.write_text("".join(lines))
    (folder / f"{TASK}.yaml").write_text(_CONFIG.format(task=TASK, data=json.dumps(str(data))))
    (folder / "utils.py").write_text(_FUNCTIONS)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
