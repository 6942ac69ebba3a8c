"""Engines of the tests, and the questions that they are asked."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from otprune_bench.served import server

# The quick way to a small engine on a busy CPU; set before vLLM is imported.
ENVIRONMENT = server.ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
ANSWER = 8


def image(height: int, width: int, seed: int) -> Image.Image:
    """An image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# wide, tall, nearly square: of a square one LLaVA-OneVision makes more tokens than vLLM expects
IMAGES = [image(168, 280, 0), image(280, 112, 1), image(112, 140, 2)]


def video(frames: int, height: int, width: int, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames of noise and what a video loader would say of them."""
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, height, width, 3), np.uint8)
    # Between Qwen2.5-VL's grids of two frames go 2 / fps * 4 = 2.5 steps of time, which are cut off
    # to 0, 2, 5; no more than the rows or columns of a frame, behind which transformers puts text.
    metadata = {
        "fps": 3.2,
        "duration": frames / 3.2,
        "total_num_frames": frames,
        "frames_indices": list(range(frames)),
        "video_backend": "opencv",
    }
    return pixels, metadata


# wide, tall; of one length, since transformers puts the frames of several into one tensor
VIDEOS = [video(6, 84, 168, 3), video(6, 168, 84, 4)]

# What a prompt says where an image goes, and a video; None for a family that takes none.
Marks = tuple[str, str | None]


@dataclass(frozen=True)
class Question:
    """A prompt with {} where an image goes and [] where a video does; which of them go there."""

    text: str
    images: tuple[int, ...] = ()
    videos: tuple[int, ...] = ()

    def prompt(self, marks: Marks) -> str:
        """Its text for one family."""
        image, video = marks
        return self.text.replace("{}", image).replace("[]", video or "")

    def request(self, marks: Marks, **asked: Any) -> dict[str, Any]:
        """What vLLM takes; `asked` is what the request says of pruning."""
        request: dict[str, Any] = {"prompt": self.prompt(marks)}
        data = {
            "image": [IMAGES[i] for i in self.images],
            "video": [
                (pixels, {**metadata, "do_sample_frames": False})
                for pixels, metadata in (VIDEOS[i] for i in self.videos)
            ],
        }
        if self.images or self.videos:
            request["multi_modal_data"] = {name: items for name, items in data.items() if items}
        if asked:
            request["mm_processor_kwargs"] = {"otprune": asked}
        return request


QUESTIONS = [
    Question("hi {}what is it, tell me more?", (0,)),
    Question("{}tall one {} and more text", (1, 0)),
    Question("{} then {} then {}.", (2, 1, 0)),
    Question("{}tall, another question?", (1,)),
    Question("hi {}what is it, said otherwise?", (0,)),
    Question("no image at all"),
    Question("[]what moves, tell me more?", (), (0,)),
    Question("first {} then [] and more text", (1,), (1,)),
    Question("[] then [] then {}.", (2,), (1, 0)),
]


def questions(marks: Marks, among: Sequence[Question] = QUESTIONS) -> list[Question]:
    """Those that a family can be asked."""
    return [q for q in among if not q.videos or marks[1] is not None]


@dataclass(frozen=True)
class Answer:
    """Prompt length, generated ids, and log-probabilities of the likeliest at each step."""

    prompt: int
    ids: list[int]
    likely: list[dict[int, float]]
    cached: int


@contextmanager
def engine(path: Any, otprune: dict[str, Any] | None = None, **options: Any) -> Iterator[Any]:
    """A small engine, gone afterwards."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    settings: dict[str, Any] = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": 1024,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 1024,
        "block_size": 32,
        "limit_mm_per_prompt": {"image": 4, "video": 2},
        "seed": 0,
        "disable_log_stats": True,
    }
    overrides = {"hf_overrides": {"otprune": otprune}} if otprune is not None else {}
    llm = LLM(model=str(path), **{**settings, **overrides, **options})
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def ask(llm: Any, requests: Sequence[dict[str, Any]], new: int = ANSWER) -> list[Answer]:
    """Greedy answers of `new` tokens, all asked at once."""
    from vllm import SamplingParams

    wanted = SamplingParams(temperature=0, max_tokens=new, logprobs=5, ignore_eos=True)
    answers = []
    for made in llm.generate(list(requests), wanted, use_tqdm=False):
        (out,) = made.outputs
        likely = [{token: float(x.logprob) for token, x in step.items()} for step in out.logprobs]
        answers.append(
            Answer(len(made.prompt_token_ids), list(out.token_ids), likely, made.num_cached_tokens)
        )
    return answers
