"""Guards of speed: what selection may cost at four shapes, beside the algorithm as published.

Run by `make bench-guards`, not by the default suite: times mean something on a machine that does
nothing else but what is started here, and only ratios to the transcription in the same minutes are
asserted.
"""

from __future__ import annotations

import statistics

import pytest

from otprune.selectors import TransportPrune
from otprune_bench.speed import plan as speed
from otprune_bench.timing.busy import busy_processes
from otprune_bench.timing.race import EXACT, TRANSCRIPTION, contenders, make_tokens, paired, race

ROUNDS = 7
CASES = [
    pytest.param((1, *shape), name, most, id=f"{shape} {name}")
    for shape, limits in speed.TARGETS.items()
    for name, most in limits.items()
]


def ratio(runs, one, to, benchmark):
    """Median over rounds of one contender's time by another's; the first goes into the table."""
    seconds = race({name: runs[name] for name in (one, to)}, ROUNDS, patience=30.0)
    found = statistics.median(paired(seconds[one], seconds[to]))
    benchmark.extra_info["ratio"] = found
    benchmark.pedantic(runs[one], rounds=3)
    return found


@pytest.mark.parametrize(("shape", "name", "most"), CASES)
def test_against_the_transcription(benchmark, shape, name, most):
    *sizes, k = shape
    runs = contenders(make_tokens(*sizes, seed=0), k)
    assert ratio(runs, name, TRANSCRIPTION, benchmark) <= most


def test_a_batch_against_single_images(benchmark):
    *sizes, k = speed.BATCH
    runs = contenders(make_tokens(*sizes, seed=0), k)
    assert ratio(runs, EXACT, TRANSCRIPTION, benchmark) <= speed.BATCH_TARGET


def test_transport_against_the_exact_path(benchmark):
    m, d, k = list(speed.TARGETS)[1]
    tokens = make_tokens(1, m, d, seed=0)
    runs = contenders(tokens, k) | {speed.TRANSPORT: lambda: TransportPrune(k).select(tokens)}
    assert ratio(runs, speed.TRANSPORT, EXACT, benchmark) <= speed.TRANSPORT_TARGET


@pytest.mark.parametrize(("shape", "most"), speed.BUSY_TARGETS.items(), ids=str)
def test_beside_two_busy_processes(benchmark, shape, most):
    *sizes, k = shape
    runs = contenders(make_tokens(*sizes, seed=0), k)
    with busy_processes():
        assert ratio(runs, EXACT, TRANSCRIPTION, benchmark) <= most
