"""`select` inside `torch.compile`: one graph, the same tokens."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from otprune import METHODS, OTPrune
from tests.random_tokens import cues_for, random_tokens

COMPILED = pytest.mark.parametrize(
    "method", [c for n, c in METHODS.items() if n != "random"], ids=lambda c: c.name
)


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()


def same(selector, shape, backend):
    tokens = random_tokens(*shape)
    cues = cues_for(selector, tokens)

    def function(x, cues):
        return selector.select(x, cues=cues)

    compiled = torch.compile(function, fullgraph=True, backend=backend)
    assert compiled(tokens, cues).equal(selector.select(tokens, cues=cues))


@COMPILED
def test_one_graph(method):
    """RandomPrune excepted: its numbers are drawn outside."""
    if not method.needs:
        same(method(8), (40, 12), "aot_eager")
    same(method(4), (2, 30, 64), "aot_eager")


def test_one_graph_of_projected_tokens():
    same(OTPrune(8, rank=6), (2, 30, 64), "aot_eager")


@pytest.mark.slow
@COMPILED
def test_compiled_for_the_processor(method):
    same(method(8), (2, 30, 64), "inductor")


def graphs(function, sizes):
    """How many are made for tokens of those sizes, one after the other; and what comes out."""
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(function, backend=counter)
    return [compiled(random_tokens(m, 12)) for m in sizes], counter.frame_count


@pytest.mark.parametrize(
    "method", ["norm", *(pytest.param(n, marks=pytest.mark.slow) for n in ("otprune", "transport"))]
)
def test_two_graphs_for_all_sizes(method):
    """The first is for its size alone, the second for any, if as many tokens are kept of each."""
    selector, sizes = METHODS[method](2), (30, 40, 50, 60, 70)
    kept, count = graphs(selector.select, sizes)
    assert count == 2
    assert all(
        k.equal(selector.select(random_tokens(m, 12))) for k, m in zip(kept, sizes, strict=True)
    )


def test_selection_kept_out_of_the_graphs_costs_none():
    """Whatever is kept of each size: a graph before it and one behind, each made twice."""
    selector, sizes = OTPrune(0.2), (30, 40, 50, 60, 70, 80, 90, 100, 110, 120)
    outside = torch.compiler.disable(selector.select)
    kept, count = graphs(lambda x: x[outside(x * 2)] + 1, sizes)
    assert count == 4
    for m, rows in zip(sizes, kept, strict=True):
        tokens = random_tokens(m, 12)
        assert rows.equal(tokens[selector.select(tokens)] + 1)


def test_nobody_looks_for_nan():
    """It would break the graph. Some tokens or other are kept."""
    selector = METHODS["otprune"](3)
    tokens = random_tokens(9, 4)
    tokens[2, 1] = torch.nan
    compiled = torch.compile(lambda x: selector.select(x), fullgraph=True, backend="eager")
    assert compiled(tokens).shape == (3,)
