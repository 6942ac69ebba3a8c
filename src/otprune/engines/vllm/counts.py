"""Visual tokens before and after pruning: metrics of the server, and one line of the log a minute.

They are counted where prompts are written. So an item that comes from a cache counts like any
other, and one whose settings were refused does not.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from otprune.engines.vllm.seconds import SHARED, Collector, Seconds, folder_of, read_folders

logger = logging.getLogger("vllm.otprune")

MINUTE = 60.0


class Item(NamedTuple):
    """An image or video of a prompt: its visual tokens before and after pruning."""

    modality: str
    before: int
    after: int


class Lines:
    """Adds up items and tells of them in a line, once a minute at most."""

    def __init__(self) -> None:
        self._measured = Seconds()
        self._begin()

    def _begin(self) -> None:
        self._start: float | None = None
        self._numbers = {"image": 0, "video": 0}
        self._before = self._after = 0

    def add(
        self, items: Sequence[Item], now: float, measure: Callable[[], Seconds] = Seconds
    ) -> str | None:
        """A line, if a minute has gone by since the first item that no line has told of.

        Args:
            now: seconds of a clock that never goes back.
            measure: returns the seconds of all selections so far.
        """
        if self._start is None:
            self._start = now
        for item in items:
            self._numbers[item.modality] += 1
            self._before += item.before
            self._after += item.after
        elapsed = now - self._start
        if elapsed < MINUTE:
            return None
        measured, earlier = measure(), self._measured
        numbers = [f"{n:,} {name}{'s' * (n > 1)}" for name, n in self._numbers.items() if n]
        line = (
            f"otprune: {', '.join(numbers)} in {elapsed:.0f} s: {self._before:,} -> "
            f"{self._after:,} visual tokens ({self._after / self._before:.1%})"
        )
        if selected := measured.selected - earlier.selected:
            each = (measured.total - earlier.total) / selected
            line += f", selection {1000 * each:.1f} ms each"
        self._measured = measured
        self._begin()
        return line


def count(items: Sequence[Item], mm_config: Any) -> None:
    """Count the items of one processed prompt; `mm_config` is vLLM's `MultiModalConfig`."""
    if not items:
        return
    counted = _counted()
    for item in items:
        counted.before.labels(item.modality).inc(item.before)
        counted.after.labels(item.modality).inc(item.after)
    folder = folder_of(mm_config)
    with counted.lock:
        if folder is not None:
            counted.seconds.folders.add(folder)
        line = counted.lines.add(
            items, time.monotonic(), lambda: read_folders(counted.seconds.folders)
        )
    if line is not None:
        logger.info(line)


class _Counted:
    """What this process exports, registered where vLLM's own metrics are."""

    def __init__(self) -> None:
        from prometheus_client import REGISTRY, Counter

        what = "Visual tokens of images and videos in processed prompts,"
        self.before = Counter("otprune:visual_tokens_before", f"{what} unpruned.", ["modality"])
        self.after = Counter("otprune:visual_tokens_after", f"{what} pruned.", ["modality"])
        self.seconds = Collector()
        if SHARED not in os.environ:
            REGISTRY.register(self.seconds)
        self.lines = Lines()
        self.lock = threading.Lock()


_counted = functools.cache(_Counted)
