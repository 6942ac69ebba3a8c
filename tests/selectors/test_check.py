"""What is handed over as a selector is one, or is refused there with the way to write it."""

import itertools

import pytest
import torch

import otprune
from otprune import METHODS, OTPrune, OTPruneError, StreamSelector, recommended
from otprune.selectors import check_selector


@pytest.mark.parametrize("method", METHODS.values())
def test_a_selector_is_given_back(method):
    selector = method(0.1)
    assert check_selector(selector) is selector


def test_a_selector_of_the_users_own_is_one():
    class Own(otprune.Selector):
        name, summary = "own", "the first tokens"

        def pick(self, tokens, k, cues):
            return torch.arange(k).expand(len(tokens), -1)

    assert check_selector(Own(3))
    with pytest.raises(OTPruneError, match=r"like Own\(keep=0.1\)"):
        check_selector(Own)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (0.1, "selector=0.1 is no selector: .*otprune.OTPrune\\(keep=0.1\\)"),
        (16, "otprune.OTPrune\\(keep=16\\)"),
        ("otprune", "selector='otprune' .*otprune.OTPrune\\(keep=0.1\\)"),
        ("dpp", "otprune.DPPPrune\\(keep=0.1\\)"),
        ("zzz", "otprune.OTPrune\\(keep=0.1\\)"),
        ("x" * 500, "selector=a str is no"),
        (OTPrune, "the class OTPrune is no selector: make one of the class, like OTPrune"),
        (recommended(0.1), "unpack it: prune\\(model, \\*\\*otprune.recommended"),
        (StreamSelector(8), "frames that come one by one"),
        (torch.nn.Linear(2, 2), "a Linear is no selector: it looks like a model"),
        (None, "selector=None is no selector"),
        (True, "selector=True .*instance of otprune.Selector"),
        (otprune.Budget(16), "a Budget is no selector"),
    ],
    ids=itertools.count(),
)
def test_anything_else_is_told_how_to_write_it(given, said):
    with pytest.raises(OTPruneError, match=said):
        check_selector(given)
