"""Part `select`: what selection costs on a device, beside the published algorithm and floors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from otprune.errors import MissingDependencyError, UnsupportedError
from otprune.selectors import METHODS, OTPrune
from otprune.streaming.stream import StreamSelector
from otprune.streaming.video import select_video
from otprune_bench.gpu.costs import left_out, needed_bytes
from otprune_bench.gpu.plan import (
    EXACT,
    EXACT_GRAPH,
    GRAM,
    OTHERS,
    PUBLISHED,
    SKETCHED,
    SKETCHED_GRAPH,
    TRITON,
    Plan,
    Point,
)
from otprune_bench.runs.cases import Case
from otprune_bench.timing import transcription
from otprune_bench.timing.device import Stopwatch, captured
from otprune_bench.timing.race import GAMMA, Runs, make_tokens, race

CONTENDERS = (
    PUBLISHED,
    EXACT,
    EXACT_GRAPH,
    TRITON,
    SKETCHED,
    SKETCHED_GRAPH,
    *OTHERS,
    GRAM,
)


def cases(plan: Plan) -> Iterator[Case]:
    """Sizes one by one, the smallest batches first, then frames."""
    for point in plan.points:
        yield f"select/{point.name}", partial(_raced, plan, point)
    yield "select/frames", partial(_frames, plan)


def card(plan: Plan) -> dict[str, Any]:
    """What the device is, and the rates that it reaches: bytes copied, products of matrices."""
    timed = Stopwatch(plan.device or "cpu")
    found: dict[str, Any] = {"device": plan.device, "torch": torch.__version__}
    for package in ("triton", "transformers", "flash_attn", "matplotlib"):
        found[package] = _version(package)
    if plan.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {
            "name": about.name,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "memory bytes": about.total_memory,
            "L2 bytes": getattr(about, "L2_cache_size", None),
            "CUDA": torch.version.cuda or torch.version.hip,
        }
    size = 2**20 if plan.quick else 2**28
    source = torch.zeros(size, device=plan.device)
    copied = partial(torch.empty_like(source).copy_, source)
    found["bytes a second"] = 2 * 4 * size / min(timed(copied) for _ in range(5))
    del source, copied
    n = 128 if plan.quick else 4096
    for name in ("float32", "bfloat16"):
        x = torch.randn(n, n, device=plan.device).to(getattr(torch, name))
        seconds = min(timed(lambda x=x: x @ x) for _ in range(5))  # type: ignore[misc]
        found[f"operations a second, {name}"] = 2 * n**3 / seconds
    return found


def _version(package: str) -> str | None:
    """Of a package that is there; it is not imported, which may take long."""
    if find_spec(package) is None:
        return None
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # brought along by another one
        return "there"


def _raced(plan: Plan, point: Point) -> dict[str, Any]:
    """Seconds of every contender, which take turns; and why others were left out."""
    tokens = make_tokens(*point[:3], plan.seed, device=plan.device or "cpu")
    runs: Runs = {}
    skipped: dict[str, str] = {}
    for name in CONTENDERS:
        reason = left_out(name, point, plan) or _too_large(plan, name, point)
        if reason is None:
            try:
                runs[name] = ready(plan, name, tokens, point.k)
            except _NOT_HERE as cause:
                reason = f"{type(cause).__name__}: {' '.join(str(cause).split())[:200]}"
                _free(plan)
        if reason is not None:
            skipped[name] = reason
    watch = Stopwatch(plan.device or "cpu")
    return {
        "seconds": race(runs, plan.repeats, plan.patience, timed=watch),
        "left out": skipped,
        "bytes read": 4 * point.B * point.m * point.d,
    }


_NOT_HERE = (MissingDependencyError, UnsupportedError, RuntimeError)  # out of memory among these


def ready(plan: Plan, name: str, tokens: Tensor, k: int) -> Callable[[], object]:
    """A contender that was called once, so that what it compiles is compiled."""
    if name in (EXACT_GRAPH, SKETCHED_GRAPH):
        if plan.device != "cuda":
            raise UnsupportedError("a CUDA graph needs a CUDA device")
        chosen = OTPrune(k, gamma=GAMMA, rank="auto" if name == SKETCHED_GRAPH else None)
        replay, _ = captured(partial(chosen.select, tokens))
        return replay
    run = _contender(name, tokens, k)
    run()
    return run


def _contender(name: str, tokens: Tensor, k: int) -> Callable[[], object]:
    if name == PUBLISHED:
        return lambda: [transcription.select(one, k, GAMMA) for one in tokens]
    if name == GRAM:
        return lambda: torch.bmm(tokens, tokens.mT)
    if name in OTHERS:
        return partial(METHODS[name](k).select, tokens)
    more: dict[str, Any] = {SKETCHED: {"rank": "auto"}, TRITON: {"backend": "triton"}}.get(name, {})
    return partial(OTPrune(k, gamma=GAMMA, **more).select, tokens)


def _too_large(plan: Plan, name: str, point: Point) -> str | None:
    if plan.device != "cuda":
        return None
    needed, (free, _) = needed_bytes(name, point), torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if needed > free + held:
        return f"about {needed / 2**30:.0f} GiB of memory, {(free + held) / 2**30:.0f} free"
    return None


def _free(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.empty_cache()


def _frames(plan: Plan) -> dict[str, Any]:
    """`select_video` of all frames at a tenth, and one step of a `StreamSelector`."""
    count, m, d = plan.frames
    frames = make_tokens(count, m, d, plan.seed, device=plan.device or "cpu")
    watch = Stopwatch(plan.device or "cpu")
    budget = max(1, count * m // 10)
    select_video(frames, budget)
    video = [watch(lambda: select_video(frames, budget)) for _ in range(3)]
    stream = StreamSelector(rate=max(1, m // 10))
    steps = [watch(lambda x=x: stream.push(x)) for x in frames]  # type: ignore[misc]
    return {"select_video": video, "a step of a stream": steps[1:]}
