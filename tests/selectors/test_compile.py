"""`select` inside `torch.compile`: one graph, the same tokens."""

import pytest
import torch

from otprune import METHODS, OTPrune
from tests.random_tokens import random_tokens

COMPILED = pytest.mark.parametrize(
    "method", [c for n, c in METHODS.items() if n != "random"], ids=lambda c: c.name
)


@pytest.fixture(autouse=True)
def forget():
    torch._dynamo.reset()


def same(selector, shape, backend):
    tokens = random_tokens(*shape)
    compiled = torch.compile(lambda x: selector.select(x), fullgraph=True, backend=backend)
    assert compiled(tokens).equal(selector.select(tokens))


@COMPILED
@pytest.mark.parametrize("shape", [(40, 12), (2, 30, 64)])
def test_one_graph(method, shape):
    """RandomPrune excepted: its numbers are drawn outside."""
    same(method(8), shape, "aot_eager")


def test_one_graph_of_projected_tokens():
    same(OTPrune(8, rank=6), (2, 30, 64), "aot_eager")


@pytest.mark.slow
@COMPILED
def test_compiled_for_the_processor(method):
    same(method(8), (2, 30, 64), "inductor")


def test_nobody_looks_for_nan():
    """It would break the graph. Some tokens or other are kept."""
    selector = METHODS["otprune"](3)
    tokens = random_tokens(9, 4)
    tokens[2, 1] = torch.nan
    compiled = torch.compile(lambda x: selector.select(x), fullgraph=True, backend="eager")
    assert compiled(tokens).shape == (3,)
