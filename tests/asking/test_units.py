"""Figures as people read them."""

import pytest

from otprune.asking import units


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (1000, "1000 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (620 * 1024, "620 KiB"),
        (1023 * 1024, "1023 KiB"),
        (1024**2 - 1, "1 MiB"),
        (1024**2, "1 MiB"),
        (3 * 1024**3 // 2, "1.5 GiB"),
        (5 * 1024**4, "5 TiB"),
        (5000 * 1024**4, "5000 TiB"),
    ],
)
def test_bytes_are_counted_in_steps_of_1024(value, shown):
    assert units.in_bytes(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(999, "999"), (1000, "1 k"), (999.6e6, "1 G"), (126.4e6, "126 M"), (1.5e12, "1.5 T")],
)
def test_flops_are_counted_in_steps_of_1000(value, shown):
    assert units.in_flops(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0 ms"),
        (0.0255, "25.5 ms"),
        (4e-5, "0.04 ms"),
        (0.9994, "999.4 ms"),
        (1.0, "1.00 s"),
    ],
)
def test_times_are_in_milliseconds_below_a_second(value, shown):
    assert units.in_seconds(value) == shown
