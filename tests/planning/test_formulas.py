"""Formulas of costs, and amounts as people write them."""

from __future__ import annotations

import pytest

from otprune.asking.units import bytes_of, seconds_of
from otprune.errors import OTPruneError
from otprune.planning.costs import Attends, Holds, Language, kept, largest_keep


@pytest.mark.parametrize("window", [None, 1, 5, 7, 100])
def test_decoding_is_the_sum_of_its_steps(window: int | None) -> None:
    layer = Attends(3, window)
    for n in range(9):
        for steps in range(9):
            seen = [n + i if window is None else min(n + i, window) for i in range(1, steps + 1)]
            assert layer.decode(n, steps) == 3 * sum(seen)
        assert layer.prefill(n) == 3 * n * (n if window is None else min(n, window))


def test_a_language_model_is_the_sum_of_its_parts() -> None:
    model = Language(10, 7, (Attends(2, None), Attends(3, 4)), (Holds(5, None), Holds(6, 3)), 2)
    assert model.prefill(6) == 60 + 2 * 36 + 3 * 24 + 7
    assert model.prefill(0) == 0
    assert model.decode(6, 2) == 2 * 17 + 2 * (7 + 8) + 3 * 8
    assert [model.cache_bytes(n) for n in (0, 2, 9)] == [0, 22, 63]
    # 17 operations are 8.5 multiplications; each token reads its weights and the cache
    assert model.read_bytes(6, 2) == 2 * 8 * 2 + (5 * 7 + 18) + (5 * 8 + 18)


def test_the_largest_keep_of_every_threshold() -> None:
    for limit in range(1, 1001):
        assert largest_keep(lambda keep, limit=limit: round(keep * 1000) <= limit) == limit / 1000
    assert largest_keep(lambda keep: False) is None


def test_each_image_keeps_its_own_share() -> None:
    assert kept(0.1, [144, 16, 3]) == 14 + 2 + 1
    assert kept(8, [144, 16, 3]) == 8 + 8 + 3


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500MiB", 500 * 2**20),
        (" 2 GiB ", 2**31),
        ("1.5kib", 1536),
        ("8GB", 8 * 10**9),
        ("8e9", 8 * 10**9),
        ("100", 100),
        ("64B", 64),
    ],
)
def test_amounts_of_memory(text: str, value: int) -> None:
    assert bytes_of(text) == value


@pytest.mark.parametrize("text", ["", "MiB", "-3MiB", "5 apples", "1.2.3GB", "0.5x"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(OTPruneError, match="expected an amount of memory"):
        bytes_of(text)


def test_times() -> None:
    assert [seconds_of(x) for x in ("800ms", "1.5 s", "3us")] == [0.8, 1.5, 3e-6]
    assert [seconds_of(x) for x in ("0.5x", "", "5", "1.2.3s")] == [None] * 4
