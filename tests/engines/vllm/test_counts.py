"""Lines of the log, and seconds on their way from workers to the server; no vLLM needed."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

import otprune
from otprune.engines.vllm import seconds
from otprune.engines.vllm.counts import Item, Lines
from otprune.engines.vllm.rows import Asked, Plan
from otprune.engines.vllm.seconds import BOUNDS, Recorder, Seconds, folder_of, read_folders
from otprune.engines.vllm.selection import choose
from tests.random_tokens import random_tokens

IMAGE, VIDEO = Item("image", 576, 58), Item("video", 2880, 288)


def of(count, total):
    return Seconds((count,) + (0,) * len(BOUNDS), total)


def test_a_line_tells_of_all_items_since_the_last_line():
    lines = Lines()
    assert lines.add([IMAGE] * 1203, 1000.0) is None
    assert lines.add([VIDEO], 1059.9) is None
    assert lines.add([IMAGE, VIDEO], 1060.0, lambda: of(1206, 1.2 * 1.206)) == (
        "otprune: 1,204 images, 2 videos in 60 s: 699,264 -> 70,408 visual tokens (10.1%), "
        "selection 1.2 ms each"
    )
    assert lines.add([IMAGE], 1061.0) is None
    assert lines.add([IMAGE], 1120.0) is None, "a minute since the first item, not the last line"
    assert lines.add([VIDEO], 4661.0, lambda: of(1208, 1.2 * 1.206 + 0.01)) == (
        "otprune: 2 images, 1 video in 3600 s: 4,032 -> 404 visual tokens (10.0%), "
        "selection 5.0 ms each"
    )


def test_a_line_without_what_was_not_measured():
    lines = Lines()
    lines.add([VIDEO], 0.0)
    line = "otprune: 2 videos in 61 s: 5,760 -> 576 visual tokens (10.0%)"
    assert lines.add([VIDEO], 61.0) == line


def test_at_most_one_line_a_minute():
    lines = Lines()
    times = [t / 2 for t in range(1200)]
    told = [t for t in times if lines.add([IMAGE], t) is not None]
    assert len(told) == 9
    assert min(b - a for a, b in pairwise(told)) >= 60


@pytest.fixture
def config(monkeypatch):
    """A MultiModalConfig with a folder, as the server makes it."""
    monkeypatch.delenv(seconds.SHARED, raising=False)
    made = SimpleNamespace()
    seconds.open_folder(made)
    yield made
    folder = folder_of(made)
    if folder is not None:
        seconds._remove(str(folder), seconds.os.getpid())
    assert folder_of(made) is None


def test_seconds_of_all_workers_are_added_up(config):
    folder = folder_of(config)
    assert folder.stat().st_mode & 0o777 == 0o700
    seconds.open_folder(config)
    assert folder_of(config) == folder, "a copy of a configuration keeps its folder"
    assert read_folders([folder]) == Seconds()
    one, other = Recorder(config), Recorder(config)
    one(0.004, 4)  # 1 ms each, a bound
    one(0.0015, 1)
    other(100.0, 2)
    made = read_folders([folder])
    assert (made.selected, made.total) == (7, 100.0055)
    assert [(i, n) for i, n in enumerate(made.buckets) if n] == [(1, 4), (2, 1), (len(BOUNDS), 2)]


def test_where_there_is_no_folder_nothing_is_written(config, monkeypatch):
    folder = folder_of(config)
    seconds._remove(str(folder), seconds.os.getpid() + 1)
    assert folder_of(config) == folder, "a forked child does not remove it"
    seconds._remove(str(folder), seconds.os.getpid())
    Recorder(config)(1.0, 1)
    assert read_folders([folder]) == Seconds()
    monkeypatch.setenv(seconds.SHARED, "/anywhere")
    several = SimpleNamespace()
    seconds.open_folder(several)
    assert folder_of(several) is None


def test_the_seconds_of_a_selection_are_of_all_its_images():
    images = [random_tokens(9, 4, seed=seed) for seed in range(4)]
    plans = [Plan(1, 9, Asked(otprune.OTPrune(k))) for k in (3, 9, 3, 2)]
    recorded = []
    kept = choose(images, plans, record=lambda *one: recorded.append(one))
    assert sorted(items for _, items in recorded) == [1, 2], "one is kept whole, nothing is chosen"
    assert all(each > 0 for each, _ in recorded)
    for one, other in zip(kept, choose(images, plans), strict=True):
        assert torch.equal(one.indices, other.indices)
