"""A question about every image of a folder, on all machines of a Ray cluster: JSON lines out.

    python examples/vllm_ray_data.py FOLDER answers.jsonl --question "What is this?" --model NAME

Each engine is a Ray actor with a vLLM of its own that prunes. Run it again after it was stopped,
by whatever: it goes on with the images that have no line yet. A file that is no image is a line
with "error", and the status is 1 then. A line counts for one file, question, model and keep: with
another keep there are new lines below the old ones. Without RAY_ADDRESS, Ray starts on this machine
alone; without arguments it is the embedded model and the sample photographs.
"""

import argparse
import fcntl
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from otprune.demo import MODEL_DIR, SAMPLES_DIR

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SAMPLES_DIR)
    parser.add_argument("out", nargs="?", type=Path, default=Path("answers.jsonl"))
    parser.add_argument("--question", default="Is there a star?")
    parser.add_argument("--model", default=str(MODEL_DIR))
    parser.add_argument("--keep", type=float, default=0.1)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32, help="images that an engine gets at once")
    given = parser.parse_args()

    images = {
        key(path, given): str(path.resolve())
        for path in sorted(given.folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    }
    with given.out.open("ab+") as out:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one run at a time
        done = {line["key"] for line in whole_lines(out)}
        missing = [{"key": key, "path": path} for key, path in images.items() if key not in done]
        print(f"{len(images)} images, {len(images) - len(missing)} were asked before", flush=True)
        if missing:
            write_answers(missing, out, given)
        lines = [line for line in whole_lines(out) if line["key"] in images]
    broken = [line for line in lines if "error" in line]
    print(f"{len(lines)} lines in {given.out.name}, {len(broken)} of them an error")
    return 1 if broken else 0


def key(path: Path, given: argparse.Namespace) -> str:
    """What an answer depends on: the file, its size and date, and all that is asked."""
    file = path.stat()
    what = [path.name, file.st_size, file.st_mtime_ns, given.question, given.model, given.keep]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def whole_lines(out: Any) -> list[dict[str, Any]]:
    """The lines of a file open for appending; half a line, left by a kill, is cut off."""
    out.seek(0)
    text = out.read()
    end = text.rfind(b"\n") + 1
    out.truncate(end)
    return [json.loads(line) for line in text[:end].splitlines()]


def write_answers(missing: list[dict[str, str]], out: Any, given: argparse.Namespace) -> None:
    """One line an image, as soon as the batch that it is in is answered."""
    import ray

    ray.init(ignore_reinit_error=True)
    on_gpu = ray.cluster_resources().get("GPU", 0) > 0
    answers = ray.data.from_items(
        missing, override_num_blocks=-(-len(missing) // given.batch)
    ).map_batches(
        Engine,
        fn_constructor_args=(given.model, given.question, given.keep),
        batch_size=given.batch,
        concurrency=given.engines,
        num_gpus=1 if on_gpu else 0,
    )
    for row in answers.iter_rows():
        out.write(row["line"].encode() + b"\n")
        out.flush()
        print(row["line"], flush=True)


class Engine:
    """A vLLM in a Ray actor."""

    def __init__(self, model: str, question: str, keep: float) -> None:
        # Read by vLLM when it is imported: logs go to stderr, and on a CPU the KV cache has 1 GiB.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        from vllm import LLM, SamplingParams
        from vllm.plugins import load_plugins_by_group

        if "otprune" not in load_plugins_by_group("vllm.general_plugins"):
            raise RuntimeError("install otprune into vLLM's environment on every machine")
        small = {"dtype": "float32", "enforce_eager": True} if model == str(MODEL_DIR) else {}
        self.llm = LLM(model, hf_overrides={"otprune": {"keep": keep}}, **small)
        self.wanted = SamplingParams(temperature=0, max_tokens=50)
        self.question, self.keep = question, keep

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """A line for each image of a batch, which has "key" and "path"."""
        from PIL import Image

        lines, conversations = [], []
        for name, path in zip(batch["key"], batch["path"], strict=True):
            line = {"key": str(name), "image": Path(path).name}
            try:
                with Image.open(path) as image:
                    parts = [
                        {"type": "image_pil", "image_pil": image.convert("RGB")},
                        {"type": "text", "text": self.question},
                    ]
            except OSError as cause:  # damaged, or no image at all
                line["error"] = str(cause)
            else:
                conversations.append([{"role": "user", "content": parts}])
            lines.append(line)
        answered = (line for line in lines if "error" not in line)
        made = self.llm.chat(conversations, self.wanted, use_tqdm=False) if conversations else []
        for line, output in zip(answered, made, strict=True):
            line |= {
                "question": self.question,
                "keep": self.keep,
                "answer": output.outputs[0].text.strip(),
                "prompt_tokens": len(output.prompt_token_ids),
            }
        return {"line": [json.dumps(line) for line in lines]}


if __name__ == "__main__":
    sys.exit(main())
