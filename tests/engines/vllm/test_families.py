"""Every family: the answers of transformers with the same tokens dropped, and vLLM's own with none.

One engine a family and setting; requests then ask for other ratios, methods and merging.
"""

from __future__ import annotations

import pytest

import otprune

from .checkpoints import CHECKPOINTS
from .engines import QUESTIONS, ask, engine

pytestmark = pytest.mark.vllm

ASKED = [
    {},
    {"keep": 0.5},
    {"keep": 7},
    {"keep": 0.1, "method": "divprune"},
    {"keep": 0.2, "method": "transport", "merge": True},
    {"keep": 1.0},
]


def agree(answer, wanted):
    """The same prompt length and greedy tokens, log-probabilities within 1e-4."""
    length, ids, likely = wanted
    assert answer.prompt == length
    assert answer.ids == ids
    for step, entries in enumerate(answer.likely):
        for token, value in entries.items():
            assert abs(float(likely[step, token]) - value) < 1e-4


def selector_of(asked, keep=0.25):
    return otprune.METHODS[asked.get("method", "otprune")](keep=asked.get("keep", keep))


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def family(request):
    return CHECKPOINTS[request.param]


@pytest.fixture(scope="module")
def stock(family, checkpoint):
    """Answers of an engine that was not asked to prune."""
    path, placeholder = checkpoint(family.name)
    with engine(path) as llm:
        return ask(llm, [q.request(placeholder) for q in QUESTIONS])


@pytest.fixture(scope="module")
def pruned(family, checkpoint, stock):
    """Answers by what was asked, all in one engine at 0.25; twice, with full caches then."""
    path, placeholder = checkpoint(family.name)
    with engine(path, {"keep": 0.25}) as llm:
        return [
            [ask(llm, [q.request(placeholder, **asked) for q in QUESTIONS]) for asked in ASKED]
            for _ in range(2)
        ]


def test_unpruned_it_is_what_transformers_answers(family, stock, reference):
    """Without this the other comparisons would say nothing of pruning."""
    for question, answer in zip(QUESTIONS, stock, strict=True):
        agree(answer, reference(family.name)(question, otprune.OTPrune(1.0), "compact"))


@pytest.mark.parametrize("again", [0, 1], ids=["first", "cached"])
@pytest.mark.parametrize("number", range(len(ASKED)), ids=lambda i: str(ASKED[i]))
def test_pruned_it_is_what_transformers_answers(family, pruned, reference, number, again):
    asked = ASKED[number]
    positions = "preserved" if family.mrope else "compact"
    for question, answer in zip(QUESTIONS, pruned[again][number], strict=True):
        wanted = reference(family.name)(
            question, selector_of(asked), positions, asked.get("merge", False)
        )
        agree(answer, wanted)


def test_keeping_all_is_stock_bit_by_bit(stock, pruned):
    """Of an engine that prunes by default; a request in it asks for everything."""
    number = ASKED.index({"keep": 1.0})
    for wanted, answer in zip(stock, pruned[0][number], strict=True):
        assert (answer.ids, answer.likely) == (wanted.ids, wanted.likely)


def test_pruning_shows_in_the_caches(pruned):
    assert all(answer.cached == 0 for answer in pruned[0][1][:1])
    assert any(answer.cached > 0 for answer in pruned[1][0])
