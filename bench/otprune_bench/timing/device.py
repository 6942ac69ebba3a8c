"""Timing on a device: by its own events on a GPU, by the host's clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

# Where torch does not tell: no GPU has a larger one yet.
_L2 = 2**27


class Stopwatch:
    """Seconds of calls on one device, from the call to the end of what it launched there.

    On a GPU a call starts when the device is idle and its L2 cache holds nothing of use (a buffer
    of twice its size was written), so the time holds what the host needs to launch.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._buffer = None
        if self.device.type == "cuda":
            found = torch.cuda.get_device_properties(self.device)
            size = 2 * int(getattr(found, "L2_cache_size", 0) or _L2)
            self._buffer = torch.empty(size, dtype=torch.int8, device=self.device)

    def __call__(self, function: Callable[[], object]) -> float:
        if self._buffer is None:
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun
        self._buffer.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(self.device)
        start.record()
        function()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def captured(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """A call as a CUDA graph: what replays it, and the result, whose values each replay changes.

    The function is called three times before, on another stream, as capturing requires.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = function()
    return graph.replay, result
