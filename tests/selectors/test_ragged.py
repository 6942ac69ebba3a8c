"""Sets of different sizes: one by one, by size, or filled up to one, the same tokens are kept."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from otprune import Auto, OTPrune
from otprune.greedy import logdet
from otprune.greedy.logdet import sequential
from otprune.selectors import base, batches, gate
from tests.random_tokens import INFORMED, cues_for, random_tokens

SIZES = (30, 17, 60, 30, 1, 47)
SETS = [random_tokens(m, 24, seed=i) for i, m in enumerate(SIZES)]
# Copies, more picks than distinct tokens, nothing but zeros, a token of zeros.
ODD = [random_tokens(5, 24).repeat(4, 1), torch.zeros(9, 24)]
ODD.append(torch.cat([torch.zeros(1, 24), random_tokens(12, 24)]))


def one_by_one(selector, sets, weights=None):
    each = [None] * len(sets) if weights is None else weights
    return [selector.select(x, weights=w) for x, w in zip(sets, each, strict=True)]


def same(got, wanted):
    assert [x.tolist() for x in got] == [x.tolist() for x in wanted]


@pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
@pytest.mark.parametrize("keep", [0.3, 7, 1.0])
def test_any_method_in_order(method, keep):
    same(method(keep).select_each(SETS), one_by_one(method(keep), SETS))


@pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
@pytest.mark.parametrize("keep", [0.3, 7, 1.0, Auto(0.2)], ids=str)
def test_sets_of_one_size_at_once(method, keep, monkeypatch):
    """As on a device, where those are one batch; each with a question of its own length."""
    sets = [*SETS, *(random_tokens(30, 24, seed=9 + i) for i in range(3))]
    selector = getattr(method, "_of", method)(keep)
    cues = [cues_for(selector, x) for x in sets]
    if "question" in selector.needs:
        cues = [replace(c, question=c.question[: 1 + i % 4]) for i, c in enumerate(cues)]
    wanted = [selector.select(x, cues=c) for x, c in zip(sets, cues, strict=True)]
    for module in (base, batches):
        monkeypatch.setattr(module, "host_readable", lambda x: False)
    same(selector.select_each(sets, cues=cues), wanted)
    alike = [i for i, x in enumerate(sets) if len(x) == 30]
    same(
        selector.select_each([sets[i] for i in alike], cues=[cues[i] for i in alike]),
        [wanted[i] for i in alike],
    )


@pytest.fixture(params=["host", "device"])
def search(request, monkeypatch):
    """As on a CPU, or as on a device."""
    if request.param == "device":
        monkeypatch.setattr(logdet, "greedy", sequential.greedy)


def filled(selector, sets, weights=None):
    rows = gate.admit_sets(selector, sets, weights)
    return [order.sort().values for order in selector._order_padded(rows)]


@pytest.mark.usefixtures("search")
@pytest.mark.parametrize("settings", [{}, {"gamma": 0.01}, {"gamma": 1e4}, {"rank": 8}], ids=str)
@pytest.mark.parametrize("keep", [0.3, 7, 1, 1.0])
@pytest.mark.parametrize("sets", [SETS, ODD], ids=["sizes", "odd"])
def test_filled_up(sets, keep, settings):
    selector = OTPrune(keep, **settings)
    same(filled(selector, sets), one_by_one(selector, sets))


@pytest.mark.parametrize("sets", [SETS, ODD], ids=["sizes", "odd"])
def test_filled_up_in_one_launch(sets):
    pytest.importorskip("triton")
    same(filled(OTPrune(0.3, backend="triton"), sets), one_by_one(OTPrune(0.3), sets))


@pytest.mark.usefixtures("search")
def test_filled_up_with_weights():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.rand(m, generator=generator) for m in SIZES]
    selector = OTPrune(0.4)
    same(filled(selector, SETS, weights), one_by_one(selector, SETS, weights))


def test_little_is_filled_up_on_a_device(monkeypatch):
    """A set takes at most twice the room of its own size; one that is kept whole is not run."""
    sizes = [*range(1, 300, 7), 1]
    rows = [batches.Batch(torch.empty(1, m, 4, device="meta")) for m in sizes]
    runs, padded = [], batches.padded

    def look(sets):
        runs.append([one.tokens.shape[1] for one in sets])
        return padded(sets)

    monkeypatch.setattr(batches, "padded", look)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # none for "meta"
    orders = OTPrune(0.3)._orders_at_fixed_keep(rows)
    assert [len(order) for order in orders] == [OTPrune(0.3).count(m) for m in sizes]
    assert all(max(run) < 2 * min(run) for run in runs)
    assert len(runs) == 6  # of 8, 16, 32, ... tokens on
    assert [len(order) for order in OTPrune(1.0)._orders_at_fixed_keep(rows)] == sizes
    assert len(runs) == 6
