"""Kept rows, masses and merged features."""

import pickle
from dataclasses import dataclass
from typing import get_args

import pytest
import torch

from otprune import METHODS, GridPrune, HerdingPrune, Selector, SelectorError, TransportPrune
from otprune.engines.transformers import selection
from otprune.measures import transport
from otprune.measures.transport import Metric
from tests.random_tokens import INFORMED, cues_for, random_tokens

ALL = pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
X = random_tokens(40, 12)


def by_hand(tokens, kept, metric):
    """Groups, nearest kept token first, each kept token in its own."""
    x = tokens.double()
    if metric == "cosine":
        x = x / x.norm(dim=-1, keepdim=True)
    D = (x[:, None] - x[kept][None]).square().sum(-1)
    owner = D.argmin(dim=1)
    owner[kept] = torch.arange(len(kept))
    return [(owner == i).nonzero()[:, 0] for i in range(len(kept))]


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_unmerged_rows_are_untouched(method, dtype):
    tokens = X.to(dtype)
    said = method(0.25).reduce(tokens)
    assert said.indices.equal(method(0.25).select(tokens))
    assert said.features.dtype == dtype
    assert said.features.equal(tokens[said.indices])
    assert said.masses.dtype == torch.float32
    assert said.masses.sum() == pytest.approx(1, abs=1e-6)
    assert (said.masses >= 1 / 40 - 1e-7).all()


@pytest.mark.parametrize(
    "method", [c for c in INFORMED.values() if not c.merges], ids=lambda c: c.name
)
def test_merged_features_are_the_means_of_the_groups(method):
    selector = method(7)
    said = selector.reduce(X, merge=True)
    groups = by_hand(X, said.indices, selector.assignment_metric)
    wanted = torch.stack([X[g].mean(dim=0) for g in groups])
    torch.testing.assert_close(said.features, wanted)
    torch.testing.assert_close(said.masses, torch.tensor([len(g) / 40 for g in groups]))
    # the full set's mean is kept: mass goes nowhere
    torch.testing.assert_close(said.masses @ said.features, X.mean(dim=0))


@pytest.mark.parametrize("metric", get_args(Metric))
def test_cells_are_the_groups(metric):
    """In float32, also under a caller's autocast."""
    x, selector = random_tokens(300, 12), TransportPrune(40, metric=metric)
    groups = by_hand(x, selector.select(x), metric)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (cells,) = selector.cells_each([x])
    assert torch.equal(cells.kept, selector.select(x))
    for i, group in enumerate(groups):
        assert torch.equal((cells.cell == i).nonzero()[:, 0], group)


MERGING = pytest.mark.parametrize(
    "method", [c for c in METHODS.values() if c.merges], ids=lambda c: c.name
)


@MERGING
def test_a_merging_of_the_methods_own(method):
    """Sums with the method's weights; the masses are those without merging."""
    cues = cues_for(method, X)
    plain = method(7).reduce(X, cues=cues)
    tokens = X.clone().requires_grad_()
    said = method(7).reduce(tokens, merge=True, cues=cues)
    assert said.indices.equal(plain.indices)
    assert said.masses.equal(plain.masses)
    assert not said.masses.requires_grad
    rows = cues.each(lambda x: x[None])
    weights = method(7).merge_weights(X[None], said.indices[None], rows)[0]
    torch.testing.assert_close(said.features, weights @ X)
    said.features.sum().backward()
    torch.testing.assert_close(tokens.grad, weights.sum(0)[:, None].expand(40, 12))
    half = method(7).reduce(X.half(), merge=True, cues=cues).features
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), said.features.detach(), rtol=0.01, atol=0.01)


@MERGING
def test_a_merging_of_its_own_behind_a_selection_inside_the_encoder(method):
    """Among the tokens that the encoder kept, with what is known of them."""
    (cells,) = TransportPrune(20).cells_each([X])
    cues, few = cues_for(method, X), X[cells.kept]
    tokens = cells.back(few)  # copies
    (made,) = selection.choose(method(7), [tokens], [0], True, [cues], [cells])
    alone = method(7).reduce(few, merge=True, cues=cues_for(method, few))
    assert made.made.indices.equal(cells.kept[alone.indices])
    scale = 20 / 40 if method.name != "visionzip" else 1  # of the saliency that was made up
    kept = torch.zeros_like(few[alone.indices]) if scale == 1 else few[alone.indices]
    torch.testing.assert_close(
        (made.made.features - kept) / scale, alone.features - kept, rtol=1e-4, atol=1e-4
    )
    assert made.made.masses.sum() == pytest.approx(1)


def test_a_merging_with_weights_of_another_shape_is_refused():
    @dataclass(frozen=True)
    class Own(GridPrune):
        merges = True

        def merge_weights(self, tokens, indices, cues):
            return torch.ones(1, 1, 40)

    with pytest.raises(SelectorError, match=r"Own.merge_weights returned shape \(1, 1, 40\)"):
        Own(7).reduce(X, merge=True)


@ALL
def test_batches(method):
    batch = torch.stack([X, X.flip(0) * 3])
    for merge in (False, True):
        said = method(7).reduce(batch, merge=merge)
        assert said.features.shape == (2, 7, 12)
        for b in range(2):
            one = method(7).reduce(batch[b], merge=merge)
            assert said.indices[b].equal(one.indices)
            torch.testing.assert_close(said.masses[b], one.masses)
            torch.testing.assert_close(said.features[b], one.features)


@ALL
def test_keeping_all_changes_nothing(method):
    for keep in (1.0, 40):
        said = method(keep).reduce(X, merge=True)
        assert said.features.equal(X)
        torch.testing.assert_close(said.masses, torch.full((40,), 1 / 40))


@pytest.mark.parametrize("method", [HerdingPrune, TransportPrune], ids=lambda c: c.name)
def test_duplicates_that_are_both_kept_keep_their_mass(method):
    tokens = torch.ones(4, 3)
    said = method(3).reduce(tokens, merge=True)
    assert said.indices.tolist() == [0, 1, 2]
    assert said.masses.tolist() == [0.5, 0.25, 0.25]  # the fourth goes to the first
    assert said.features.equal(tokens[:3])


@dataclass(frozen=True)
class KeepLast(Selector):
    """A method of your own: `pick` is all it takes."""

    metric: Metric = "cosine"

    @property
    def assignment_metric(self):
        return self.metric

    def pick(self, tokens, k, cues):
        batch, m, _ = tokens.shape
        return torch.arange(m).flip(0)[:k].expand(batch, k)


@pytest.mark.parametrize(
    ("metric", "masses"), [("cosine", [2 / 3, 1 / 3]), ("euclidean", [1 / 3, 2 / 3])]
)
def test_groups_go_by_the_methods_metric(metric, masses):
    """The first token is near the long one in direction and near the short one in place."""
    tokens = torch.tensor([[1.0, 0.2], [8.0, 0.0], [1.0, 1.0]])
    said = KeepLast(2, metric=metric).reduce(tokens)
    assert said.indices.tolist() == [1, 2]
    assert said.masses.tolist() == pytest.approx(masses)


def test_metrics():
    assert TransportPrune(2, metric="cosine").assignment_metric == "cosine"
    assert TransportPrune(2, metric="euclidean").assignment_metric == "euclidean"
    assert HerdingPrune(2).assignment_metric == "euclidean"
    assert all(method(2).assignment_metric in get_args(Metric) for method in METHODS.values())


def test_one_huge_token_does_not_blur_the_groups():
    tokens = X.clone()
    tokens[0] *= 1000
    said = KeepLast(12, metric="euclidean").reduce(tokens)
    groups = by_hand(tokens, said.indices, "euclidean")
    torch.testing.assert_close(said.masses, torch.tensor([len(g) / 40 for g in groups]))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_masses_do_not_depend_on_scale(scale):
    for selector in (TransportPrune(5, metric="euclidean"), HerdingPrune(5), GridPrune(5)):
        one, other = selector.reduce(X), selector.reduce(X * scale)
        assert other.masses.equal(one.masses)
        merged = selector.reduce(X * scale, merge=True).features
        torch.testing.assert_close(
            merged / scale, selector.reduce(X, merge=True).features, rtol=1e-4, atol=1e-5
        )


def test_merging_stays_in_the_range_of_half_precision():
    tokens = torch.full((1000, 2), 60000.0, dtype=torch.float16)
    said = GridPrune(2).reduce(tokens, merge=True)
    assert said.features.dtype == torch.float16
    assert said.features.eq(60000.0).all()


@pytest.mark.parametrize("merge", [False, True])
def test_gradients_reach_the_tokens(merge):
    tokens = X.clone().requires_grad_()
    said = TransportPrune(7).reduce(tokens, merge=merge)
    assert not said.masses.requires_grad
    (said.masses @ said.features).sum().backward()
    touched = tokens.grad.ne(0).any(dim=-1)
    assert touched.sum() == (40 if merge else 7)


@pytest.mark.parametrize("merge", [False, True])
def test_who_belongs_to_whom_is_worked_out_once_and_only_if_asked(merge, monkeypatch):
    calls, assign = [], transport.assign
    monkeypatch.setattr(transport, "assign", lambda *a: calls.append(1) or assign(*a))
    rows = GridPrune(7).reduce(torch.stack([X, X.flip(0)]), merge=merge).unbind()
    assert len(calls) == 2 * merge  # once for each set
    for row in rows * 2:
        assert row.masses.shape == (7,)
        assert len(calls) == 2


def test_masses_asked_for_later_or_elsewhere():
    tokens = X.clone().requires_grad_()
    said = TransportPrune(7).reduce(tokens)
    wanted = TransportPrune(7).reduce(X).masses
    sent = pickle.loads(pickle.dumps(said.lazy_masses))
    assert sent().equal(wanted)
    assert not said.masses.requires_grad
    with torch.inference_mode():
        inside = TransportPrune(7).reduce(X.clone())
    assert inside.masses.equal(wanted)
