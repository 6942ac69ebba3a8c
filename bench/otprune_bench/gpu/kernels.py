"""Part `kernel`: where the time of the search goes, launch by launch, for the next change."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from otprune.selectors import OTPrune
from otprune_bench.gpu.checks import triton_kernel
from otprune_bench.gpu.plan import Plan, Point
from otprune_bench.runs.cases import Case
from otprune_bench.runs.deadline import SkipError
from otprune_bench.timing.race import GAMMA, make_tokens

_FEW = 12  # kernels that are named


def cases(plan: Plan) -> Iterator[Case]:
    """All of this part."""
    for point in plan.profiled:
        for name, more in (("exact", {}), ("sketched", {"rank": "auto"})):
            key = f"kernel/{name}/{point.name}"
            yield key, partial(_profiled, plan, point, more)
        yield f"kernel/Triton/{point.name}", partial(_compiled, plan, point)


def _profiled(plan: Plan, point: Point, more: dict[str, Any]) -> dict[str, Any]:
    """One call of `select` as torch.profiler sees it."""
    tokens = make_tokens(*point[:3], plan.seed, device=plan.device or "cpu")
    selector = OTPrune(point.k, gamma=GAMMA, **more)
    gpu = plan.device == "cuda"
    for _ in range(2):
        selector.select(tokens)
    if gpu:
        torch.cuda.synchronize()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])]
    with profile(activities=activities) as found:
        selector.select(tokens)
        if gpu:
            torch.cuda.synchronize()
    wanted = "CUDA" if gpu else "CPU"
    spans = sorted(
        (event.time_range.start, event.time_range.end, event.name)
        for event in found.events()
        if event.device_type.name == wanted and (gpu or event.cpu_parent is None)
    )
    return {**busy(spans), "picks": point.k, "device": plan.device}


def busy(spans: list[tuple[float, float, str]]) -> dict[str, Any]:
    """What kernels `(start, end, name)` in microseconds, sorted, say of a call.

    Launches; seconds in kernels and between them, from the first to the last; the kernels that take
    most of it.

    Raises:
        SkipError: there are none.
    """
    if not spans:
        raise SkipError("torch.profiler saw no kernels here (is CUPTI installed and permitted?)")
    working, idle, until = 0.0, 0.0, spans[0][0]
    by_name: dict[str, list[float]] = {}
    for start, end, name in spans:
        idle += max(0.0, start - until)
        working += max(0.0, end - max(start, until))
        until = max(until, end)
        by_name.setdefault(name, []).append(end - start)
    longest = sorted(by_name.items(), key=lambda one: -sum(one[1]))[:_FEW]
    return {
        "launches": len(spans),
        "seconds in kernels": working / 1e6,
        "seconds between": idle / 1e6,
        "kernels": [
            {"name": name[:90], "launches": len(all_), "seconds": sum(all_) / 1e6}
            for name, all_ in longest
        ],
    }


def _compiled(plan: Plan, point: Point) -> dict[str, Any]:
    """Registers, spills, shared memory and theoretical occupancy of the Triton kernel."""
    if plan.device != "cuda":
        raise SkipError("Triton compiles for a CUDA device")
    module = triton_kernel()
    tokens = make_tokens(*point[:3], plan.seed, device="cuda")
    kept = getattr(module._greedy, "device_caches", {})
    kept.clear()  # of other sizes
    OTPrune(point.k, gamma=GAMMA, backend="triton").select(tokens)
    torch.cuda.synchronize()
    binary = next(_binaries(kept), None)
    if binary is None:
        raise SkipError("this Triton does not tell where its compiled kernels are")
    getattr(binary, "_init_handles", lambda: None)()
    metadata = binary.metadata
    found = {
        "registers": int(binary.n_regs),
        "spills": int(binary.n_spills),
        "shared": int(metadata.shared),
        "warps": int(metadata.num_warps),
    }
    card = torch.cuda.get_device_properties(0)
    limits = {
        "threads": int(card.max_threads_per_multi_processor),
        "registers": int(getattr(card, "regs_per_multiprocessor", 65536)),
        "shared": int(getattr(card, "shared_memory_per_multiprocessor", 0) or 102400),
    }
    return {**found, "programs": point.B, **occupancy(found, limits)}


def _binaries(value: Any) -> Iterator[Any]:
    """Compiled kernels anywhere inside Triton's caches, whose shape differs between releases."""
    if hasattr(value, "metadata") and hasattr(value, "asm"):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _binaries(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _binaries(item)


def occupancy(kernel: dict[str, int], limits: dict[str, int]) -> dict[str, Any]:
    """Programs that fit on one multiprocessor at once, and the share of its threads that they are.

    Registers are given out per warp in units of 256; no more than 32 programs share one.

    Args:
        kernel: `registers` of a thread, `shared` bytes and `warps` of a program.
        limits: `threads`, `registers` and `shared` bytes of a multiprocessor.
    """
    each = -(-kernel["registers"] * 32 // 256) * 256 * kernel["warps"]
    fit = {
        "threads": limits["threads"] // (32 * kernel["warps"]),
        "registers": limits["registers"] // max(each, 1),
        "shared": limits["shared"] // kernel["shared"] if kernel["shared"] else 10**6,
    }
    fit["programs"] = 32
    programs = min(fit.values())
    return {
        "programs on a multiprocessor": programs,
        "occupancy": programs * 32 * kernel["warps"] / limits["threads"],
        "limited by": min(fit, key=lambda name: fit[name]),
    }
