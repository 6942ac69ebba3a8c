"""Cells: masses, the way back, composition."""

import pytest
import torch

from otprune import OTPrune, TransportPrune
from otprune.measures.cells import Cells
from tests.random_tokens import INFORMED


@pytest.fixture
def tokens():
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", INFORMED.values(), ids=lambda x: x.name)
def test_cells_are_those_of_reduce(method, tokens):
    made = method(9).reduce(tokens)
    (cells,) = method(9).cells_each([tokens])
    assert torch.equal(cells.kept, made.indices)
    assert torch.equal(cells.cell[cells.kept], torch.arange(9))
    assert torch.allclose(cells.counts() / 40, made.masses)


def test_weights_and_the_way_back(tokens):
    (cells,) = TransportPrune(5).cells_each([tokens])
    weights = torch.rand(40, generator=torch.Generator().manual_seed(1))
    by_hand = torch.stack([weights[cells.cell == j].sum() for j in range(5)])
    assert torch.allclose(cells.counts(weights), by_hand)
    back = cells.back(tokens[cells.kept])
    assert torch.equal(back, tokens[cells.representative])
    assert torch.equal(back[cells.kept], tokens[cells.kept])


def test_plans_compose(tokens):
    (first,) = OTPrune(15).cells_each([tokens])
    (second,) = TransportPrune(4).cells_each([tokens[first.kept]])
    both = first.then(second)
    assert torch.equal(both.kept, first.kept[second.kept])
    assert torch.equal(both.representative, first.kept[second.representative][first.cell])
    assert both.counts().sum() == 40
    assert torch.equal(both.counts(), second.counts(first.counts()))


def test_several_sets_as_one(tokens):
    parts = TransportPrune(0.25).cells_each([tokens, tokens[:12]])
    one = Cells.joined(parts)
    assert torch.equal(one.kept, torch.cat([parts[0].kept, parts[1].kept + 40]))
    assert torch.equal(one.counts(), torch.cat([part.counts() for part in parts]))
    assert not one.is_whole
    assert Cells.whole(3).is_whole
    assert torch.equal(Cells.whole(3).counts(), torch.ones(3))
    assert TransportPrune(1.0).cells_each([tokens])[0].is_whole


def test_another_layout(tokens):
    cells = Cells(torch.tensor([1, 4]), torch.tensor([0, 0, 1, 0, 1]))
    shown = cells.shown(torch.tensor([0, -1, 1, 2, -1, 3, 2]))
    # 0, 1 and 3 are of cell 1, which is shown third; of cell 4 only token 2 is shown, twice.
    assert shown.kept.tolist() == [1, 2, 3, 4]
    assert shown.representative.tolist() == [2, 1, 2, 3, 4, 2, 3]
    (some,) = TransportPrune(7).cells_each([tokens])
    same = some.shown(torch.arange(40))
    assert torch.equal(same.kept, some.kept)
    assert torch.equal(same.cell, some.cell)
