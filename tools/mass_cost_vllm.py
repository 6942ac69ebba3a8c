"""What attention mass costs in vLLM: an engine with wider heads beside one without, in turns.

    python -m tools.mass_cost_vllm [--head 128|64] [--requests 2] [--rounds 5]

A Qwen2.5-VL of four layers of width 1024 with random weights in float32, without compilation.
Requests have the same image, encoded before the clock starts, 256 tokens of it, kept 64 of them,
and a text of 200 tokens; no prefix is cached. A figure is the median over rounds of the ratio to
the engine without mass of the same round. Needs vLLM (`make test-vllm` sets up `.venv-vllm`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from otprune_bench.served.model import IMAGE, PIXELS, TOWER, Size, save
from otprune_bench.served.server import ENVIRONMENT

SIDE, TEXT, NEW = 16, 200, 9
WITHOUT = {"keep": 0.25, "method": "grid", "merge": True}
# The engine's settings, and those of its requests.
ARMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no mass": (WITHOUT, {}),
    "wider heads, no mass": ({**WITHOUT, "allow_mass": True}, {}),
    "wider heads, mass token": ({**WITHOUT, "allow_mass": True}, {"mass": "token"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", type=int, choices=(64, 128), default=128)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"})

    with tempfile.TemporaryDirectory() as folder:
        save(
            Path(folder), Size(layers=4, width=1024, heads=1024 // arguments.head, mlp=4864), TOWER
        )
        engines = [
            _engine(folder, settings) for settings in (WITHOUT, ARMS["wider heads, no mass"][0])
        ]
        of_arm = dict(zip(ARMS, [engines[0], engines[1], engines[1]], strict=True))
        rounds = []
        for _ in range(arguments.rounds + 1):
            rounds.append(
                {arm: _timed(of_arm[arm], arguments.requests, ARMS[arm][1]) for arm in ARMS}
            )
        rounds = rounds[1:]  # the first warms up
        print(
            f"heads of {arguments.head}, {arguments.requests} requests at once, {arguments.rounds} "
            f"rounds; first token {statistics.median(r['no mass'][0] for r in rounds):.3f} s, step "
            f"{1000 * statistics.median(r['no mass'][1] for r in rounds):.1f} ms without mass"
        )
        print("| engine, request | to the first token | a step after it | tokens in the cache |")
        print("| --- | ---: | ---: | ---: |")
        for arm in ARMS:
            first, step = (
                statistics.median(r[arm][i] / r["no mass"][i] for r in rounds) for i in (0, 1)
            )
            print(f"| {arm} | x {first:.2f} | x {step:.2f} | {_room(of_arm[arm]):,} |")


def _engine(folder: str, settings: dict[str, Any]) -> Any:
    from vllm import LLM

    return LLM(
        model=folder,
        load_format="dummy",
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=16,
        block_size=32,
        enable_prefix_caching=False,
        hf_overrides={"otprune": settings},
        limit_mm_per_prompt={"image": 1, "video": 0},
        disable_log_stats=True,
    )


def _timed(llm: Any, requests: int, asked: dict[str, Any]) -> tuple[float, float]:
    """Seconds to the first token of all requests, and of a step after it."""
    from PIL import Image
    from vllm import SamplingParams

    image = Image.new("RGB", (SIDE * PIXELS, SIDE * PIXELS), (200, 80, 40))
    request = {
        "prompt": IMAGE + "x" * TEXT,
        "multi_modal_data": {"image": image},
        "mm_processor_kwargs": {"otprune": asked},
    }

    def seconds(new: int) -> float:
        sampling = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True)
        start = time.perf_counter()
        llm.generate([request] * requests, sampling, use_tqdm=False)
        return time.perf_counter() - start

    seconds(1)  # encodes the image
    first = seconds(1)
    return first, (seconds(NEW) - first) / (NEW - 1)


def _room(llm: Any) -> int:
    cache = llm.llm_engine.vllm_config.cache_config
    return int(cache.num_gpu_blocks * cache.block_size)


if __name__ == "__main__":
    main()
