"""A selection among copies: as if the copies were not there, and all of them counted."""

import pytest
import torch

import otprune
from otprune import DPPPrune, TransportPrune
from otprune.engines.common.among import reduce_among
from otprune.selectors import Cues


@pytest.fixture
def copies():
    """Tokens of which 12 of 40 differ, and their cells."""
    tokens = torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
    (cells,) = DPPPrune(12).cells_each([tokens])
    return cells.back(tokens[cells.kept]), cells


def _by_cell(cells, made, right):
    """Both keep tokens of the same cells, in another order if copies were kept: which."""
    ours, theirs = cells.cell[made.indices], cells.cell[right.indices]
    assert sorted(ours.tolist()) == sorted(theirs.tolist())
    return torch.tensor([theirs.tolist().index(cell) for cell in ours.tolist()])


@pytest.mark.parametrize("merge", [False, True])
def test_weights_stand_for_copies(copies, merge):
    tokens, cells = copies
    (made,) = reduce_among(TransportPrune(0.1), [tokens], [cells], merge, [Cues()])
    right = TransportPrune(0.1).reduce(tokens, merge=merge)
    order = _by_cell(cells, made, right)
    assert torch.allclose(made.masses, right.masses[order])
    assert torch.allclose(made.features, right.features[order], atol=1e-6)
    assert set(made.indices.tolist()) <= set(cells.kept.tolist())


def test_never_more_than_the_encoder_kept_but_all_if_all_are_asked_for(copies):
    tokens, cells = copies
    few, most, every = (
        reduce_among(DPPPrune(keep), [tokens], [cells], False, [Cues()])[0] for keep in (3, 20, 1.0)
    )
    assert len(few.indices) == 3
    assert torch.equal(most.indices, cells.kept)
    assert torch.allclose(40 * most.masses, cells.counts())
    assert torch.equal(every.indices, torch.arange(40))
    assert torch.equal(every.features, tokens)


def test_weights_of_the_caller_add_up(copies):
    tokens, cells = copies
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3)) ** 4
    weights = weights / weights.mean()
    (made,) = reduce_among(TransportPrune(4), [tokens], [cells], False, [Cues(weights=weights)])
    right = TransportPrune(4).reduce(tokens, weights=weights)
    order = _by_cell(cells, made, right)
    assert torch.allclose(made.masses, right.masses[order], atol=1e-6)


def test_rules_decide_on_what_the_encoder_kept(copies):
    tokens, cells = copies
    made = reduce_among(
        TransportPrune(otprune.Budget(9)), [tokens, tokens], [cells, cells], False, [Cues(), Cues()]
    )
    assert sum(len(one.indices) for one in made) == 9
    (auto,) = reduce_among(TransportPrune("auto"), [tokens], [cells], False, [Cues()])
    assert set(auto.indices.tolist()) <= set(cells.kept.tolist())


def test_ratios_in_rules_are_shares_of_all_tokens(copies):
    tokens, cells = copies  # 12 of 40
    budget, auto = (
        reduce_among(TransportPrune(keep), [tokens] * 2, [cells] * 2, False, [Cues()] * 2)
        for keep in (otprune.Budget(0.25), otprune.Auto(1e-9, max_keep=0.25))
    )
    assert sum(len(one.indices) for one in budget) == 20
    assert [len(one.indices) for one in auto] == [10, 10]
    (most,) = reduce_among(TransportPrune(otprune.Budget(0.9)), [tokens], [cells], False, [Cues()])
    assert torch.equal(most.indices, cells.kept)


def test_a_method_with_its_own_constructor(copies):
    class Quarter(TransportPrune):
        def __init__(self):
            super().__init__(0.25)

    tokens, cells = copies
    (made,) = reduce_among(Quarter(), [tokens], [cells], False, [Cues()])
    (right,) = reduce_among(TransportPrune(0.25), [tokens], [cells], False, [Cues()])
    assert torch.equal(made.indices, right.indices)
