"""What is kept of a set depends on nothing but the set: no neighbours, no threads, no place.

On sets whose gains are soon at the level of rounding, where the last bit decides.
"""

import itertools

import pytest
import torch

from otprune import Auto, OTPrune, TransportPrune
from otprune.engines.transformers import selection
from otprune.engines.vllm import selection as served
from otprune.engines.vllm.rows import Asked, Plan
from otprune.greedy.cover import blockwise
from otprune.numerics import threads
from tests.random_tokens import INFORMED, TOKENS_ALONE, random_tokens

M, D = 100, 350  # so many numbers that torch would use all its threads


def low_rank(seed, rank=9):
    return random_tokens(M, rank, seed=seed) @ random_tokens(rank, D, seed=seed + 1)


def white_page(seed):
    """One token all over, but for a few and for rounding."""
    page = random_tokens(1, D, seed=seed) * (1 + 1e-6 * random_tokens(M, 1, seed=seed + 1))
    page[[3, 77, 90]] += random_tokens(3, D, seed=seed + 2)
    return page


def duplicates(seed):
    return random_tokens(M // 4, D, seed=seed).repeat(4, 1)


def newline_rows(seed):
    """The same token at the end of each row of an image."""
    tokens = low_rank(seed, rank=40)
    tokens[9::10] = random_tokens(1, D, seed=9)
    return tokens


KINDS = [low_rank, white_page, duplicates, newline_rows]
SETS = [kind(10 * i) for i, kind in enumerate(KINDS)]
ALL = pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
KEEP = pytest.mark.parametrize("keep", [0.25, 0.75])


@pytest.fixture(params=[1, 2])
def number(request, monkeypatch):
    monkeypatch.setattr(threads, "_processors", lambda: request.param)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def one_thread(selector, sets):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [selector.select(x) for x in sets]
    finally:
        torch.set_num_threads(before)


def same(got, wanted):
    assert [x.tolist() for x in got] == [x.tolist() for x in wanted]


ORDERS = [[0, 1], [3, 2, 1, 0, 2], [*range(4)] * 4]
EVERY = [*itertools.product(TOKENS_ALONE.values(), (0.25, 0.75), ORDERS)]
EVERY += [(one, 0.5, ORDERS[1]) for one in INFORMED.values() if one.needs]


@pytest.mark.parametrize(
    ("method", "keep", "order"),
    [pytest.param(*case, id=f"{case[0].name}-{case[1]}-{len(case[2])}") for case in EVERY],
)
def test_in_any_batch(method, keep, order, number):
    selector = method(keep)
    sets = [SETS[i] for i in order]
    wanted = one_thread(selector, sets)
    same([selector.select(x) for x in sets[:2]], wanted[:2])
    same(selector.select(torch.stack(sets)), wanted)
    same(selector.reduce(torch.stack(sets)).indices, wanted)
    same(selector.select_each(sets), wanted)
    ragged = [x[: M - 15 * i] for i, x in enumerate(SETS)]
    same(selector.select_each(ragged), one_thread(selector, ragged))


@ALL
def test_wherever_it_lies_in_memory(method):
    selector = method(0.5)
    wanted = one_thread(selector, SETS)
    for offset in (1, 4, 7):
        room = torch.empty(M * D + offset)[offset:].view(M, D)
        same([selector.select(room.copy_(x)) for x in SETS], wanted)
    same([selector.select(x.T.contiguous().T) for x in SETS], wanted)


@pytest.mark.parametrize("settings", [{"rank": 64}, {"gamma": 100.0}], ids=str)
@KEEP
def test_settings_of_otprune(settings, keep, number):
    """More tokens than features, too; and weights."""
    selector = OTPrune(keep, **settings)
    same(selector.select(torch.stack(SETS)), one_thread(selector, SETS))
    narrow = [x[:, :60] for x in SETS]
    same(selector.select(torch.stack(narrow)), one_thread(selector, narrow))
    w = torch.rand(len(SETS), M, generator=torch.Generator().manual_seed(0))
    same(
        selector.select(torch.stack(SETS), weights=w),
        [selector.select(x, weights=v) for x, v in zip(SETS, w, strict=True)],
    )


@pytest.mark.parametrize("name", ["otprune", "dpp", "herding"])
def test_rules(name, number):
    selector = INFORMED[name](Auto(0.2))
    same(selector.select_each(SETS), one_thread(selector, SETS))
    same(selector.select_each(torch.stack(SETS)), one_thread(selector, SETS))


@ALL
@KEEP
def test_in_a_transformers_batch(method, keep, number):
    selector = method(keep)
    sets = [*SETS, *(x[:70] for x in SETS)]
    rows = [0, 0, 1, 1, 2, 2, 2, 2]
    made = selection.choose(selector, sets, rows, merge=False)
    same([one.made.indices for one in made], one_thread(selector, sets))


@pytest.mark.parametrize("name", TOKENS_ALONE)
@pytest.mark.parametrize("merge", [False, True])
def test_in_a_vllm_batch(name, merge, number):
    k = 40
    selector = TOKENS_ALONE[name](k)
    kept = served.choose(SETS, [Plan(1, M, Asked(selector, merge))] * len(SETS))
    same([one.indices for one in kept], one_thread(selector, SETS))


@pytest.mark.parametrize("small", [0, 1000])
def test_large_sets_share_out_what_is_in_them(small, number, monkeypatch):
    monkeypatch.setattr("otprune.selectors.batches._LARGE", 1)
    monkeypatch.setattr("otprune.numerics.arrays._AT_ONCE", 2**12)
    monkeypatch.setattr("otprune.numerics.products._PANEL", 32)
    monkeypatch.setattr("otprune.greedy.logdet.dense.MOST", small)
    monkeypatch.setattr("otprune.greedy.logdet.speculative._PART", 32)
    monkeypatch.setattr("otprune.greedy.logdet.speculative._LEAST", 24)
    monkeypatch.setattr("otprune.numerics.products._WORTH", 2**12)
    monkeypatch.setattr("otprune.numerics.products._LEAST", 16)
    for selector in (OTPrune(0.5), OTPrune(0.5, rank=64), INFORMED["dpp"](0.5)):
        same(selector.select(torch.stack(SETS)), one_thread(selector, SETS))


@KEEP
def test_distances_that_are_not_all_held(keep, number, monkeypatch):
    monkeypatch.setattr("otprune.greedy.cover.MANY", 10)
    for name, value in {"_BLOCK": 16, "_NEAR": 4, "_WIDE": 32, "_LEAST": 8, "_MOST": 16}.items():
        monkeypatch.setattr(blockwise, name, value)
    selector = TransportPrune(keep)
    same(selector.select(torch.stack(SETS)), one_thread(selector, SETS))
