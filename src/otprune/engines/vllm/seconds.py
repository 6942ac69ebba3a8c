"""Seconds that selections take: workers write them to a folder, and the server reads them from it.

vLLM shows metrics of the server's own process. Where it runs several servers, it shares files of
`prometheus_client` among all processes, which is used then. Otherwise each worker adds up its
seconds in a small file, in a folder that the configuration names. On other machines there is no
such folder, and nothing is written.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

METRIC = "otprune:selection_seconds"
HELP = "Seconds of selection for each image or video that a worker pruned."
# Upper bounds of the histogram's buckets, in seconds.
BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # set by vLLM where it runs several servers, or by its user
_FOLDER = "otprune_seconds"  # attribute of a MultiModalConfig


class Seconds(NamedTuple):
    """What workers added up: number of items in each bucket, the last unbounded; and seconds."""

    buckets: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0

    @property
    def selected(self) -> int:
        """Number of items in all buckets."""
        return sum(self.buckets)


def open_folder(mm_config: Any) -> None:
    """Make a folder, named by a `MultiModalConfig` on its way to the workers, gone at exit."""
    if folder_of(mm_config) is not None or SHARED in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="otprune-")
    # No field of the configuration: vLLM's keys of compiled models are made from its fields.
    object.__setattr__(mm_config, _FOLDER, folder)
    atexit.register(_remove, folder, os.getpid())


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked child
        shutil.rmtree(folder, ignore_errors=True)


def folder_of(mm_config: Any) -> Path | None:
    """The folder that a configuration names, if it is on this machine."""
    named = getattr(mm_config, _FOLDER, None)
    return None if named is None or not Path(named).is_dir() else Path(named)


class Recorder:
    """Adds up the seconds of one worker."""

    def __init__(self, mm_config: Any) -> None:
        self._shared = _histogram() if SHARED in os.environ else None
        self._sums: np.ndarray | None = None
        folder = folder_of(mm_config)
        if self._shared is None and folder is not None:
            name = folder / f"{os.getpid()}-{id(self)}"
            self._sums = np.memmap(name, np.float64, mode="w+", shape=len(BOUNDS) + 2)

    def __call__(self, seconds: float, items: int) -> None:
        """Share the seconds of one selection among its items."""
        each = seconds / items
        if self._shared is not None:
            for _ in range(items):
                self._shared.observe(each)
        if self._sums is not None:
            self._sums[bisect_left(BOUNDS, each)] += items
            self._sums[-1] += seconds


@functools.cache
def _histogram() -> Any:
    from prometheus_client import Histogram

    return Histogram(METRIC, HELP, buckets=BOUNDS)


def read_folders(folders: Iterable[Path]) -> Seconds:
    """What all workers of some folders added up."""
    sums = np.zeros(len(BOUNDS) + 2)
    for file in [file for folder in folders for file in folder.glob("*")]:
        row = np.fromfile(file, np.float64)
        if len(row) == len(sums):  # a file is empty for a moment when it is made
            sums += row
    return Seconds(tuple(int(x) for x in sums[:-1]), float(sums[-1]))


class Collector:
    """The histogram of some folders, for a registry of `prometheus_client`."""

    def __init__(self) -> None:
        self.folders: set[Path] = set()

    def collect(self) -> Iterator[Any]:
        """One metric."""
        from prometheus_client.core import HistogramMetricFamily

        made = read_folders(self.folders)
        bounds = [*map(str, BOUNDS), "+Inf"]
        below = np.cumsum(made.buckets).tolist()
        yield HistogramMetricFamily(
            METRIC, HELP, buckets=list(zip(bounds, below, strict=True)), sum_value=made.total
        )
