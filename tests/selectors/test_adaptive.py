"""keep as a rule: as few tokens as an image needs, or one total over several images."""

from dataclasses import dataclass
from itertools import product

import pytest
import torch

from otprune import (
    METHODS,
    Auto,
    Budget,
    Cues,
    KeepError,
    NormPrune,
    OTPrune,
    Selector,
    SimplexPrune,
    TokenError,
    TransportPrune,
    WeightError,
    free_mass_w2,
)
from otprune.keep import count
from tests.random_tokens import INFORMED, TOKENS_ALONE, best_by_brute_force, random_tokens

ALL = pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
KNOWING = [method for method in INFORMED.values() if method.needs]
X = random_tokens(40, 12)
PLAIN = X[:1] + 0.05 * random_tokens(40, 12, seed=1)  # hardly differ


def named(value):
    return getattr(value, "name", None)


def cost(tokens, kept, weights=None):
    unit = tokens / tokens.norm(dim=-1, keepdim=True)
    return free_mass_w2(unit, unit[kept], full_mass=weights)


@pytest.mark.parametrize(
    ("method", "target"),
    [*product(TOKENS_ALONE.values(), (0.05, 0.2, 0.6)), *((x, 0.2) for x in KNOWING)],
    ids=named,
)
def test_as_few_tokens_as_reach_the_target(method, target):
    for tokens in (X, PLAIN):
        costs = [cost(tokens, method(k).select(tokens)) for k in range(1, 33)]
        k = next((k for k, c in enumerate(costs, 1) if c <= target), 32)
        kept = method(Auto(target, max_keep=0.8)).select(tokens)
        assert kept.equal(method(k).select(tokens))


def first_of_more(method, tokens):
    most = method(39).pick(tokens, 39, Cues())
    return all(method(k).pick(tokens, k, Cues()).equal(most[:, :k]) for k in (1, 2, 7, 24))


@ALL
def test_nested_means_that_fewer_are_the_first_of_more(method):
    for tokens in (X[None], X[None, :, :4], torch.ones(1, 40, 2), PLAIN[None]):
        assert first_of_more(method, tokens) or not method.nested
    assert method.nested or not first_of_more(method, X[None])


@dataclass(frozen=True)
class FromTheEnd(Selector):
    """A method of your own that is not declared nested."""

    def pick(self, tokens, k, cues):
        return torch.arange(tokens.shape[1] - k, tokens.shape[1]).expand(len(tokens), k)


def test_a_method_that_is_not_nested_runs_anew_for_each_number():
    kept = FromTheEnd(Auto(0.3, max_keep=1.0)).select(X)
    assert cost(X, kept) <= 0.3 < cost(X, kept[1:])
    assert FromTheEnd(Auto(1e-9, max_keep=40)).select(X).equal(torch.arange(40))


@ALL
def test_never_more_than_max_keep(method):
    for most in (1, 5, 0.3):
        kept = method(Auto(1e-9, max_keep=most)).select(X)
        assert kept.equal(method(most).select(X))
    everything = method(Auto(1e-9, max_keep=1.0)).select(X)
    assert everything.equal(torch.arange(40))


@ALL
def test_of_equal_tokens_one_is_enough(method):
    for tokens in (torch.full((12, 3), 2.0), torch.zeros(12, 3), torch.ones(1, 3)):
        assert len(method("auto").select(tokens)) == 1


def test_the_default():
    assert OTPrune("auto").keep == Auto() == Auto(0.1, "distance", 0.5)
    assert Auto(measure="certificate").target == 0.9
    assert hash(OTPrune("auto")) == hash(OTPrune(Auto()))
    few, many = (len(TransportPrune("auto").select(x)) for x in (PLAIN, X))
    assert few < many <= 20


@pytest.mark.parametrize(
    ("method", "sizes", "keep"),
    [
        *product(
            TOKENS_ALONE.values(),
            [(40, 40, 40), (40, 25, 1)],
            ["auto", Auto(0.2, max_keep=1.0), Budget(0.3), 0.3, 12],
        ),
        *product(KNOWING, [(20, 20, 9)], [Auto(0.2, max_keep=5), 5]),
    ],
    ids=named,
)
def test_several_sets(method, sizes, keep):
    sets = [random_tokens(m, 12, seed=s) for s, m in enumerate(sizes)]
    selector = method(keep)
    kept = selector.select_each(sets)
    if not isinstance(keep, Budget):
        assert all(k.equal(selector.select(x)) for k, x in zip(kept, sets, strict=True))
    for merge in (False, True):
        made = selector.reduce_each(sets, merge=merge)
        for row, x, indices in zip(made, sets, kept, strict=True):
            alone = method(len(indices)).reduce(x, merge=merge)
            assert row.indices.equal(indices)
            assert row.indices.equal(alone.indices)
            torch.testing.assert_close(row.features, alone.features)
            torch.testing.assert_close(row.masses, alone.masses)
    if len(set(sizes)) == 1:
        batch = selector.select_each(torch.stack(sets))
        assert all(a.equal(b) for a, b in zip(batch, kept, strict=True))
    assert selector.select_each([]) == selector.reduce_each([]) == []


def test_sets_in_half_precision_numpy_and_with_gradients():
    selector = TransportPrune(Auto(0.2))
    kept = selector.select(X)
    assert selector.select_each([X.numpy(), X])[0].equal(kept)
    assert selector.select_each([X.bfloat16(), X])[1].equal(kept)
    tokens = X.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (made,) = selector.reduce_each([tokens], merge=True)
    assert made.indices.equal(kept)
    made.features.sum().backward()
    assert tokens.grad.ne(0).any(dim=-1).all()


@pytest.mark.parametrize("keep", ["auto", Budget(12)])
def test_where_numbers_are_needed_before_tokens_rules_are_refused(keep):
    for ask in (NormPrune(keep).count, lambda m: count(keep, m)):
        with pytest.raises(KeepError, match=r"depends on the tokens.*give a ratio"):
            ask(40)
    for ask in (NormPrune(keep).select, NormPrune(keep).reduce):
        with pytest.raises(KeepError, match=r"every set.*select_each or reduce_each"):
            ask(torch.stack([X, X]))
        ask(X)


def test_wrong_sets():
    with pytest.raises(TokenError, match=r"\(2, 40, 12\): expected \(m, d\)"):
        OTPrune(3).select_each([X[None].expand(2, -1, -1)])
    with pytest.raises(WeightError, match="weights for 1 sets, and there are 2"):
        OTPrune(3).select_each([X, X], weights=[torch.ones(40)])


@pytest.mark.parametrize("method", [OTPrune, TransportPrune], ids=lambda c: c.name)
@pytest.mark.parametrize("target", [0.3, 0.7, 0.9, 1.0])
def test_certified_share_of_what_any_max_keep_tokens_are_worth(method, target):
    tokens = random_tokens(8, 4, seed=3)

    def value(chosen):
        said = method(len(chosen))._certify(tokens.double()[None], torch.tensor(chosen), Cues())
        return said.value

    best = best_by_brute_force(value, 8, 4)
    said = method(Auto(target, "certificate", max_keep=4)).explain(tokens)
    k = len(said.indices)
    assert said.indices.equal(method(k).select(tokens))
    assert value(said.indices.tolist()) >= said.reached * best - 1e-9
    assert said.reached >= target or k == 4
    if k > 1:
        less = method(k - 1).select(tokens).tolist()
        assert value(less) < target * method(4).explain(tokens).bound


def test_where_nothing_can_be_gained_one_token_is_certain():
    assert len(TransportPrune(Auto(measure="certificate")).select(torch.ones(8, 3))) == 1


def test_one_image_may_take_many_times_its_share_of_a_budget():
    """More than twice, which is what its costs are computed for at first."""
    sets = [torch.ones(40, 8)] * 7 + [random_tokens(40, 8)]
    for method in (TransportPrune, SimplexPrune):
        kept = method(Budget(16)).select_each(sets)
        assert [len(x) for x in kept] == [1] * 7 + [9]


def test_all_that_can_be_had_is_enough():
    """A target of 1 is reached, not exceeded."""
    tokens = torch.eye(3).repeat(8, 1)
    said = TransportPrune(Auto(1.0, "certificate", max_keep=9)).explain(tokens)
    assert said.indices.tolist() == [0, 1, 2]
    assert said.reached == 1.0


def test_no_certificate_no_rule_by_it():
    able = ", ".join(sorted(m.__name__ for m in METHODS.values() if m.certifies))
    with pytest.raises(KeepError, match=rf"NormPrune has no certificate.*one of {able}"):
        NormPrune(Auto(measure="certificate"))


def test_explain_says_what_was_reached():
    said = TransportPrune(Auto(0.5)).explain(X)
    assert said.reached == pytest.approx(cost(X, said.indices), rel=1e-5)
    assert said.reached <= 0.5
    assert TransportPrune(5).explain(X).reached is None
    assert len(TransportPrune(Budget(5)).explain(X).indices) == 5


def test_weights_count():
    """What weighs nothing need not be near a kept token."""
    weights = torch.cat([torch.ones(20), torch.zeros(20)])
    selector = TransportPrune(Auto(0.3))
    kept = selector.select(X, weights=weights)
    assert len(kept) < len(selector.select(X))
    assert cost(X, kept, weights) <= 0.3
    assert selector.select_each([X, X], weights=[weights, weights])[1].equal(kept)
    assert selector.select_each([X, X], weights=[None, weights])[1].equal(kept)


@ALL
def test_a_total_is_used_up_and_goes_where_it_helps(method):
    for total, floor in ((12, 1), (12, 3), (0.25, 1), (80, 1), (999, 1), (1.0, 2)):
        kept = method(Budget(total, floor)).select_each([PLAIN, X])
        plain, rich = map(len, kept)
        assert plain + rich == count(total, 80)
        assert plain >= floor
        assert rich >= plain
        for indices, tokens in zip(kept, (PLAIN, X), strict=True):
            assert indices.equal(method(len(indices)).select(tokens))


@pytest.mark.parametrize("total", [3, 7, 10, 15])
def test_greedy_by_marginal_decrease_is_the_best_split(total):
    """Costs of facility location fall by less and less, so that no other split is better."""
    sets = [random_tokens(m, 3, seed=s) for s, m in enumerate((9, 6, 8))]
    costs = [
        [m * cost(x, TransportPrune(k).select(x)) for k in range(1, m + 1)]
        for x in sets
        for m in [len(x)]
    ]
    best = min(
        sum(c[k - 1] for c, k in zip(costs, ks, strict=True))
        for ks in product(range(1, 10), range(1, 7), range(1, 9))
        if sum(ks) == total
    )
    kept = TransportPrune(Budget(total)).select_each(sets)
    paid = sum(len(x) * cost(x, k) for x, k in zip(sets, kept, strict=True))
    assert paid == pytest.approx(best, rel=1e-4)


def test_a_total_below_the_floors():
    with pytest.raises(KeepError, match=r"total of 3 tokens.*take 4 at least \(floor=2\)"):
        OTPrune(Budget(3, floor=2)).select_each([X, PLAIN])
