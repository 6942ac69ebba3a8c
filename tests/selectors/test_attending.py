"""Methods that count some tokens of the full set more than others: question and saliency."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch

from otprune import CueError, Cues, DPPPrune, OTPrune, OTPruneError, SimplexPrune, TransportPrune
from otprune.measures.relevance import relevance
from tests.random_tokens import best_by_brute_force, random_tokens

ABLE = pytest.mark.parametrize("method", [OTPrune, TransportPrune, DPPPrune, SimplexPrune])
X = random_tokens(60, 16)
ASKED = X[[7]] * 2  # a text token in the direction of a visual one
Q = Cues(question=ASKED)
S = Cues(saliency=torch.rand(60, generator=torch.Generator().manual_seed(0)))


@ABLE
@pytest.mark.parametrize("cue", ["question", "saliency"])
def test_a_share_of_zero_is_the_method_as_it_is(method, cue):
    given = {"question": Q, "saliency": S}[cue]
    assert method(9, **{cue: 0.0}) == method(9)
    with pytest.raises(CueError, match=f"does not use {cue}"):
        method(9).select(X, cues=given)
    needing = method(9, **{cue: 0.4})
    assert cue in needing.needs
    assert cue not in method(9).needs
    with pytest.raises(CueError, match=f"needs {cue}: pass cues="):
        needing.select(X)
    assert not needing.select(X, cues=given).equal(method(9).select(X))


@pytest.mark.parametrize("method", [TransportPrune, DPPPrune, SimplexPrune])
def test_what_is_asked_about_is_kept(method):
    assert method(1, question=1.0).select(X, cues=Q).tolist() == [7]


@ABLE
def test_an_empty_question_and_an_even_attention_change_nothing(method):
    kept = method(9).select(X)
    assert method(9, question=0.8).select(X, cues=Cues(question=ASKED[:0])).equal(kept)
    for value in (0.0, 3.0):
        even = Cues(saliency=torch.full((60,), value))
        assert method(9, saliency=0.7).select(X, cues=even).equal(kept)


def test_question_and_saliency_are_weights():
    """The same choice as with the mass passed as weights."""
    r, a = relevance(X[None], ASKED[None])[0], S.saliency / S.saliency.mean()
    mass = 0.2 + 0.5 * r + 0.3 * a
    both = Cues(question=ASKED, saliency=S.saliency)
    for method in (OTPrune, TransportPrune):
        kept = method(9, question=0.5, saliency=0.3).select(X, cues=both)
        assert kept.equal(method(9).select(X, weights=mass))
    w = torch.rand(60, generator=torch.Generator().manual_seed(1)) + 0.1
    mixed = TransportPrune(9, question=0.5).select(X, weights=w, cues=Q)
    assert mixed.equal(TransportPrune(9).select(X, weights=0.5 * w / w.mean() + 0.5 * r))


def test_the_certificate_is_of_the_objective_with_the_question():
    x, asked = random_tokens(8, 5), random_tokens(3, 5, seed=2)
    mass = relevance(x[None], asked[None])[0] * 0.8 + 0.2
    said = TransportPrune(3, question=0.8).explain(x, cues=Cues(question=asked))
    plain = TransportPrune(3).explain(x, weights=mass)
    assert said.certificate == pytest.approx(plain.certificate, rel=1e-5)

    def value(chosen):
        unit = torch.nn.functional.normalize(x.double(), dim=-1)
        paid = torch.cdist(unit, unit[chosen]).square().amin(dim=1)
        return -float(mass.double() @ paid / 8)

    best = best_by_brute_force(value, 8, 3)
    assert said.value <= best + said.reference + 1e-6 <= said.bound + 2e-6
    # Masses and distances are those of the image, not of what is asked.
    assert said.masses.sum() == pytest.approx(1)
    assert said.free_mass_w2 == pytest.approx(TransportPrune(3).explain(x).free_mass_w2, rel=1)


def test_questions_of_a_batch_are_answered_one_by_one():
    asked = torch.stack([X[[7]], X[[11]]])
    kept = TransportPrune(4, question=0.9).select(torch.stack([X, X]), cues=Cues(question=asked))
    for row, one in zip(kept, asked, strict=True):
        assert row.equal(TransportPrune(4, question=0.9).select(X, cues=Cues(question=one)))
    assert not kept[0].equal(kept[1])


@ABLE
@pytest.mark.parametrize(
    "wrong",
    [{"question": -0.1}, {"question": 1.1}, {"saliency": "much"}, {"question": True}],
)
def test_a_share_is_from_zero_to_one(method, wrong):
    (name,) = wrong
    with pytest.raises(OTPruneError, match=f"{name}=.*: expected a share from 0 to 1"):
        method(9, **wrong)


def test_shares_are_of_one_whole():
    with pytest.raises(OTPruneError, match="their sum must not exceed 1"):
        TransportPrune(9, question=0.8, saliency=0.3)


@ABLE
def test_shares_that_sum_to_one_up_to_rounding(method):
    """1 - 0.9 - 0.1 is negative, and so would be the mass of what nothing points at."""
    x = ASKED.repeat(20, 1)
    x[5] *= -1
    x += random_tokens(*x.shape) * 1e-4
    seen = torch.ones(len(x))
    seen[5] = 0
    cues = Cues(question=ASKED, saliency=seen)
    made = method(10, question=0.9, saliency=0.1)
    assert made.mass(x[None], cues.checked(x)).min() >= 0
    assert len(made.select(x, cues=cues)) == 10


def test_copies_need_the_same():
    selector = TransportPrune(9, question=0.8)
    for other in (copy.deepcopy(selector), pickle.loads(pickle.dumps(selector))):
        assert other == selector
        assert other.needs == selector.needs == {"question"}
    assert replace(selector, question=0.0).needs == frozenset()
