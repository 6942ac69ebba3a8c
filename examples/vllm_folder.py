"""A question about every image of a folder, through vLLM offline and pruned: JSON lines out.

    python examples/vllm_folder.py FOLDER --question "What is this?" --model NAME --keep 0.1

A file that cannot be read as an image is a line with "error", and the others go on; the status is 1
then. Without arguments it is the embedded model and the sample photographs, on a CPU too.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from otprune.demo import MODEL_DIR, SAMPLES_DIR

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLES_DIR)
    parser.add_argument("--question", default="Is there a star?")
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--keep", type=float, default=0.1)
    given = parser.parse_args()

    images, failed = {}, 0
    for path in sorted(p for p in given.folder.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            with Image.open(path) as image:
                images[path] = image.convert("RGB")
        except OSError as cause:  # damaged, or no image at all
            print(json.dumps({"image": path.name, "error": str(cause)}))
            failed += 1
    for path, line in zip(images, answers(list(images.values()), given), strict=True):
        print(json.dumps({"image": path.name, **line}))
    return 1 if failed else 0


def answers(images: list[Image.Image], given: argparse.Namespace) -> Iterator[dict[str, object]]:
    """One answer an image; vLLM makes batches of them by itself."""
    if not images:
        return
    # Read by vLLM when it is imported: logs go to stderr, and on a CPU the KV cache has 1 GiB.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from vllm import LLM, SamplingParams

    small = {"dtype": "float32", "enforce_eager": True} if given.model == str(MODEL_DIR) else {}
    llm = LLM(given.model, hf_overrides={"otprune": {"keep": given.keep}}, **small)
    conversations = []
    for image in images:
        parts = [
            {"type": "image_pil", "image_pil": image},
            {"type": "text", "text": given.question},
        ]
        conversations.append([{"role": "user", "content": parts}])
    made = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=50), use_tqdm=False)
    for output in made:
        text, length = output.outputs[0].text.strip(), len(output.prompt_token_ids)
        yield {"question": given.question, "answer": text, "prompt_tokens": length}


if __name__ == "__main__":
    sys.exit(main())
