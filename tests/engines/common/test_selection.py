"""What every engine does about selection: ask, check, share the time out."""

from types import SimpleNamespace

import pytest
import torch

from otprune import Budget, Cues, OTPrune, Reduction, SelectorError, TransportPrune
from otprune.engines.common import selection
from otprune.engines.transformers.selection import choose
from tests.random_tokens import random_tokens

SETS = [random_tokens(m, 6, seed=m + s) for s, m in enumerate((12, 4, 12))]


def clock(monkeypatch, *moments):
    monkeypatch.setattr(
        selection, "time", SimpleNamespace(perf_counter=iter(moments).__next__), raising=True
    )


def test_images_of_one_batch_share_its_time_evenly(monkeypatch):
    clock(monkeypatch, 0.0, 6.0, 10.0, 11.0)
    made = choose(OTPrune(3), SETS, [0, 0, 1], merge=False)
    assert [one.seconds for one in made] == [3.0, 1.0, 3.0]


def test_images_of_one_prompt_under_a_rule_share_its_time_evenly(monkeypatch):
    clock(monkeypatch, 0.0, 5.0, 7.0, 8.0)
    made = choose(OTPrune(Budget(6)), SETS, [0, 0, 1], merge=False)
    assert [one.seconds for one in made] == [2.5, 2.5, 1.0]


def test_one_image_has_all_the_time(monkeypatch):
    clock(monkeypatch, 1.0, 3.0)
    (one,) = choose(OTPrune(3), SETS[:1], [0], merge=False)
    assert one.seconds == 2.0


def test_the_time_ends_when_the_device_is_done(monkeypatch):
    noted = []
    monkeypatch.setattr(torch.cuda, "synchronize", noted.append)
    selection.timed(lambda: noted.append("task") or [], torch.device("cuda", 1))
    assert noted == [torch.device("cuda", 1), "task", torch.device("cuda", 1)]


@pytest.mark.parametrize("merge", [False, True])
def test_with_weights_or_without(merge):
    w = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
    batch = torch.stack([SETS[0], SETS[2], SETS[2].flip(0)])
    for weights in (None, w):
        made = selection.reduce_checked(TransportPrune(4), batch, merge, Cues(weights=weights))
        wanted = TransportPrune(4).reduce(batch, merge=merge, weights=weights)
        for name in ("indices", "masses", "features"):
            assert getattr(made, name).equal(getattr(wanted, name))


class Last:
    """Reduces as a selector does, and says what it likes."""

    def __init__(self, *indices):
        self.indices = torch.tensor(indices)

    def reduce(self, tokens, merge=False):
        return Reduction(self.indices, torch.ones(len(self.indices)), tokens[..., :1, :])

    def reduce_each(self, sets, merge=False):
        return [self.reduce(x) for x in sets]


@pytest.mark.parametrize("indices", [(1, 1), (2, 1), (3, 12), (-1, 3), ((1, 2), (4, 3))])
def test_indices_that_are_no_ascending_places_are_refused(indices):
    with pytest.raises(SelectorError, match=r"Last returned indices .* of a set of 12 tokens"):
        selection.reduce_checked(Last(*indices), SETS[0], False)
    with pytest.raises(SelectorError, match="Last returned indices"):
        selection.reduce_each_checked(Last(*indices), [SETS[0]], False)


def test_ascending_places_are_handed_on():
    assert selection.reduce_checked(Last(0, 11), SETS[0], False).indices.tolist() == [0, 11]
    batch = torch.stack([SETS[0], SETS[2]])
    made = selection.reduce_checked(Last((0, 11), (3, 4)), batch, False)
    assert made.indices.tolist() == [[0, 11], [3, 4]]
