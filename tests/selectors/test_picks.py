"""A method of your own that does not pick k distinct tokens is refused, everywhere."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from otprune import (
    Auto,
    Budget,
    KeepError,
    OTPrune,
    OTPruneError,
    Selector,
    SelectorError,
    TokenError,
    WeightError,
)
from otprune.engines.transformers import selection
from otprune.selectors import picks
from tests.random_tokens import random_tokens


@dataclass(frozen=True)
class Own(Selector):
    """Says what it is told to say, of one set."""

    order: Any = None

    name, summary = "own", "for tests"

    def pick(self, tokens, k, cues):
        return self.order


BAD = pytest.mark.parametrize(
    ("order", "said"),
    [
        (torch.tensor([[4, 4, 1]]), "Own picked a token twice: expected 3 distinct places of 9"),
        (torch.tensor([[4, 9, 1]]), "places from 1 to 9 of a set of 9 tokens: expected 0 to 8"),
        (torch.tensor([[4, -1, 1]]), "places from -1 to 4"),
        (torch.tensor([[4, 2, 1, 0]]), r"int64 of shape \(1, 4\): expected int64 of .*\(1, 3\)"),
        (torch.tensor([4, 2, 1]), r"shape \(3,\)"),
        (torch.tensor([[4, 2, 1]], dtype=torch.int32), "torch.int32"),
        (torch.tensor([[4.0, 2, 1]]), "torch.float32"),
        ([[4, 2, 1]], "a list"),
        (None, "a NoneType"),
    ],
    ids=str,
)


@BAD
def test_refused(order, said):
    x = random_tokens(9, 4)
    own = Own(3, order)
    for call in (
        lambda: own.select(x),
        lambda: own.select(torch.stack([x, x])),
        lambda: own.reduce(x, merge=True),
        lambda: own.select_each([x, x]),
        lambda: own.reduce_each([x]),
        lambda: own.explain(x),
        lambda: selection.choose(own, [x, x], [0, 0], merge=False),
    ):
        with pytest.raises(SelectorError, match=said) as caught:
            call()
        assert isinstance(caught.value, OTPruneError)


def test_refused_under_a_rule():
    own = Own(Auto(0.5, max_keep=3), torch.tensor([[4, 4, 1]]))
    with pytest.raises(SelectorError):
        own.select(random_tokens(9, 4))


def test_any_order_will_do():
    assert Own(3, torch.tensor([[7, 0, 8]])).select(random_tokens(9, 4)).tolist() == [0, 7, 8]


class OnDevice(torch.Tensor):
    """Pretends; what is in it must not be read."""

    is_cpu, is_cuda, is_meta = False, True, False


def test_of_its_own_methods_only_the_shape_is_looked_at_on_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(picks, "as_array", lambda x: pytest.fail("the host waits for the device"))
    order = torch.tensor([[4, 4, 1]]).as_subclass(OnDevice)
    assert picks.check_picks(OTPrune, order, 1, 9, 3) is order
    with pytest.raises(SelectorError):
        picks.check_picks(OTPrune, order, 1, 9, 2)
    with pytest.raises(pytest.fail.Exception):
        picks.check_picks(Own, order, 1, 9, 3)


class Centred(Selector):
    """Changes its tokens in place, which `pick` must not."""

    def pick(self, tokens, k, cues):
        tokens -= tokens.mean(dim=1, keepdim=True)
        return torch.arange(k).expand(len(tokens), k)


@pytest.mark.parametrize("keep", [3, Auto(0.1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_changed_in_place_are_refused(keep, dtype):
    x = random_tokens(9, 4).to(dtype)
    with pytest.raises(SelectorError, match="Centred changed the tokens or cues in place"):
        Centred(keep).select(x)


def test_an_own_pick_of_a_subclass_gets_finite_tokens_only():
    class Largest(OTPrune):
        def pick(self, tokens, k, cues):
            return tokens.norm(dim=-1).topk(k).indices

    x = random_tokens(9, 4)
    assert len(Largest(3).select(x)) == 3
    x[4, 1] = float("nan")
    with pytest.raises(TokenError, match="1 of 9 tokens hold NaN"):
        Largest(3).select(x)


def test_weights_changed_in_place_are_refused():
    class Zeroed(Selector):
        uses = frozenset({"weights"})

        def pick(self, tokens, k, cues):
            cues.weights.zero_()
            return torch.arange(k).expand(len(tokens), k)

    with pytest.raises(SelectorError, match="changed the tokens or cues in place"):
        Zeroed(3).reduce(random_tokens(9, 4), weights=torch.ones(9))


def test_what_a_parent_says_of_its_pick_does_not_hold_for_another():
    class First(OTPrune):
        def pick(self, tokens, k, cues):
            return torch.arange(k).expand(len(tokens), k)

    class Declared(First):
        nested = True
        uses = frozenset({"weights"})

        def pick(self, tokens, k, cues):
            return super().pick(tokens, k, cues)

    class Renamed(OTPrune):
        name = "renamed"

    assert (First.nested, First.uses, First.checks_finite) == (False, frozenset(), False)
    assert (Declared.nested, Declared.uses) == (True, frozenset({"weights"}))
    assert (Renamed.nested, Renamed.uses) == (OTPrune.nested, OTPrune.uses)
    with pytest.raises(WeightError, match="First has no meaning for weights"):
        First(3).select(random_tokens(9, 4), weights=torch.ones(9))


@pytest.mark.parametrize("twice", range(6))
def test_any_token_picked_twice_is_noticed(twice):
    order = torch.tensor([[5, 3, 0, 4, 1, 2], [0, 1, 2, 3, 4, 5]])
    assert picks.check_picks(Own, order, 2, 9, 6) is order
    order[1, twice] = order[1, twice - 1]
    with pytest.raises(SelectorError, match="picked a token twice"):
        picks.check_picks(Own, order, 2, 9, 6)


@pytest.mark.parametrize("wrong", [[0, 2, 2], [2, 1, 0], [-1, 0, 1], [0, 1, 9]], ids=str)
def test_kept_indices_ascend_within_a_set(wrong):
    right = torch.tensor([0, 4, 8])
    picks.check_kept(Own, right, 9)
    picks.check_kept(Own, right.repeat(2, 1), 9)
    for indices in (torch.tensor(wrong), torch.stack([right, torch.tensor(wrong)])):
        with pytest.raises(SelectorError, match="strictly ascending"):
            picks.check_kept(Own, indices, 9)


@pytest.mark.parametrize("wrong", [-1, 9, 4])
def test_one_set_of_a_batch_is_wrong(wrong):
    """On a device the sets of a batch are picked from at once."""
    order = torch.tensor([[0, 4, 8], [3, 4, wrong], [1, 2, 3]])
    with pytest.raises(SelectorError, match="Own picked"):
        picks.check_picks(Own, order, 3, 9, 3)


def test_values_that_cannot_be_read_are_not_checked():
    order = torch.empty(2, 3, dtype=torch.int64, device="meta")
    assert picks.check_picks(Own, order, 2, 9, 3) is order
    picks.check_kept(Own, order, 9)


@dataclass(frozen=True)
class Unchecked(Selector):
    """Its own `__post_init__` leaves out that of `Selector`."""

    step: int = 1

    def __post_init__(self):
        object.__setattr__(self, "step", int(self.step))

    def pick(self, tokens, k, cues):
        return torch.arange(k, device=tokens.device).expand(len(tokens), k)


CALLS = {
    "select": lambda selector, x: selector.select(x),
    "reduce": lambda selector, x: selector.reduce(x),
    "explain": lambda selector, x: selector.explain(x),
    "select_each": lambda selector, x: selector.select_each([x]),
    "cells_each": lambda selector, x: selector.cells_each([x]),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("keep", "error", "said"),
    [
        (0, KeepError, "would leave no token"),
        (2.5, KeepError, "more than everything"),
        (True, KeepError, "of type bool"),
        ("all", KeepError, "of type str"),
        (Auto(measure="certificate"), KeepError, "has no certificate"),
        ("auto", SelectorError, r"must call super\(\)"),
        (
            np.int64(3),
            SelectorError,
            r"not made 3: Unchecked.* must call super\(\)",
        ),
    ],
)
def test_keep_is_checked_whatever_a_subclass_leaves_out(call, keep, error, said):
    with pytest.raises(error, match=said):
        call(Unchecked(keep), random_tokens(8, 4, seed=0))


@pytest.mark.parametrize("keep", [3, 0.4, np.float64(0.4), Auto(0.5), Budget(3)])
def test_a_right_keep_needs_no_conversion(keep):
    @dataclass(frozen=True)
    class Checked(Selector):
        pick = Unchecked.pick

    x = random_tokens(8, 4, seed=0)
    assert torch.equal(Unchecked(keep).select(x), Checked(keep).select(x))
