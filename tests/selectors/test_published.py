"""The methods of other groups, on small cases worked by hand from what was published."""

import pytest
import torch

from otprune import SCOPE, CDPruner, Cues, DPPPrune, FasterVLM, MMTok, OTPruneError
from otprune.selectors.cdpruner import relevance
from tests.random_tokens import random_tokens


def order(selector, tokens, k, **cues):
    """Indices in the order of picking."""
    known = Cues(**cues).checked(tokens)
    return selector.pick(tokens[None], k, known)[0].tolist()


def test_fastervlm():
    tokens = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 3], [1, 1]])
    saliency = torch.tensor([0.1, 0.4, 0.2, 0.4, 0.3])
    # .4 twice: the longer token first; then .3, .2, .1.
    assert order(FasterVLM(4), tokens, 4, saliency=saliency) == [3, 1, 4, 2]


# Unit vectors. Cosines to the first: 1, .96, 0, .6.
AXES = torch.tensor([[1.0, 0, 0], [0.96, 0, 0.28], [0, 1, 0], [0.6, 0.8, 0]])
# The mean of the words points along the first token.
WORDS = torch.tensor([[2.0, 5, 0], [2.0, -5, 0]])


def test_cdpruner():
    # cos to the mean is 1, .96, 0, .6; least 0, largest 1: r = 1, .96, 0, .6, each + 1e-6.
    found = relevance(AXES[None], WORDS[None])[0]
    torch.testing.assert_close(found, torch.tensor([1, 0.96, 0, 0.6]) + 1e-6)
    # Squared: 1, .9216, 1e-12, .36: the first token. What it leaves of the others is
    # r^2 (1 - cos^2): .9216 * .0784 = .0723, 1e-12 and .36 * .64 = .2304: the fourth. The second
    # is orthogonal to what the fourth adds, (0, 1, 0), and keeps .0723; the third has nothing.
    # By relevance alone the second would be next to the first; by diversity alone, the third.
    assert order(CDPruner(4), AXES, 4, question=WORDS) == [0, 3, 1, 2]
    # The opposite question: cos = -1, -.96, 0, -.6, so r = 0, .04, 1, .4. The third token. Of the
    # fourth .16 (1 - .64) = .0576 is left, of the second all of .0016; of the first 1e-12.
    assert order(CDPruner(4), AXES, 4, question=-WORDS) == [2, 3, 1, 0]


def test_cdpruner_without_relevance_is_the_plain_process():
    tokens = random_tokens(30, 8)
    wanted = order(DPPPrune(9), tokens, 9)
    for question in (
        torch.zeros(0, 8),
        torch.zeros(2, 8),
        torch.tensor([[1.0], [-1]]).expand(2, 8),
    ):
        assert order(CDPruner(9), tokens, 9, question=question) == wanted


def test_cdpruner_goes_on_beyond_the_rank():
    tokens = random_tokens(30, 3)
    picks = order(CDPruner(20), tokens, 20, question=random_tokens(4, 3, seed=1))
    assert len(set(picks)) == 20


# Cosines of the tokens: 1, .96, 0 to the first. The encoder's features of the first two are equal.
SEEN = torch.tensor([[1.0, 0], [0.96, 0.28], [0, 1]])
ENCODED = torch.tensor([[2.0, 0], [1, 0], [0, 1]])


def test_mmtok_calibrates_as_published():
    # The word lies along the first token: cos / .02 = 50, 48, 0. exp(-2) = .13534 and
    # 1 / 1.13534 = .88080; one word.
    # Features: cos / .2 = 5, 5, 0. exp(5) = 148.413; 148.413 / 297.826 = .498320 and
    # 1 / 297.826 = .0033576; times .5 for the image, over 3 tokens: .083053 and .00055960.
    # The third: 148.413 / 150.413 = .986703 and .0066484: .164451 and .0011081.
    cues = Cues(question=torch.tensor([[3.0, 0]]), encoded=ENCODED).checked(SEEN)
    wanted = [
        [0.88080, 0.11920, 0],
        [0.083053, 0.083053, 0.00055960],
        [0.083053, 0.083053, 0.00055960],
        [0.0011081, 0.0011081, 0.164451],
    ]
    rows = MMTok(2)._rows(SEEN[None], cues)[0]
    torch.testing.assert_close(rows, torch.tensor(wanted), rtol=1e-4, atol=1e-6)
    # Words share their row's weight: of two equal ones each has half.
    cues = Cues(question=torch.tensor([[3.0, 0], [1, 0]]), encoded=ENCODED).checked(SEEN)
    rows = MMTok(2)._rows(SEEN[None], cues)[0]
    torch.testing.assert_close(rows[:2], torch.tensor([wanted[0]] * 2) / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("word", "settings", "picks"),
    [
        # Columns sum to 1.0480, .2864, .1656: the first. It covers all that the second could; the
        # third still gains .164451 - .0011081.
        ([1.0, 0], {}, [0, 2, 1]),
        # The word is the third token's: 1.1656 against .1672 and .1672.
        ([0.0, 1], {}, [2, 0, 1]),
        # The image counts a thousandfold: 167.21 for the first, 165.57 + 1 for the third.
        ([0.0, 1], {"image_weight": 500}, [0, 2, 1]),
        # cos .8, .936, .6: / .02 = 40, 46.8, 30; the second has .9989 of the word, 1.166 in all.
        # Nothing is left of the word for the first, nor of the image, where they are equal.
        ([0.8, 0.6], {}, [1, 2, 0]),
    ],
)
def test_mmtok_picks(word, settings, picks):
    question = torch.tensor([word])
    assert order(MMTok(3, **settings), SEEN, 3, question=question, encoded=ENCODED) == picks


def test_mmtok_without_words_or_features():
    # The image alone: columns sum to .1672 twice (the longer of the two first) and .1656.
    longer = SEEN * torch.tensor([[1.0], [2], [1]])
    nothing = torch.zeros(0, 2)
    assert order(MMTok(3), longer, 3, question=nothing, encoded=ENCODED) == [1, 2, 0]
    # Without features the tokens cover themselves, with the temperature of the image.
    tokens = random_tokens(30, 8)
    with_tokens = order(MMTok(9), tokens, 9, question=tokens[:0], encoded=tokens)
    assert order(MMTok(9), tokens, 9, question=tokens[:0]) == with_tokens


# Cosines: 0 and 1 .8, 0 and 2 0, 0 and 3 -1, 1 and 2 .6, 1 and 3 -.8, 2 and 3 0.
CIRCLE = torch.tensor([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])


@pytest.mark.parametrize(
    ("power", "picks"),
    [
        # Columns, negative cosines as 0: 1.8, 2.4, 1.6, 1; times the attention .72, .24, .32, .30:
        # the first. It covers 1, .8, 0, 0 of the rows. Left: .2 + .6, 1, 1; times .1, .2, .3 the
        # fourth; then the third (.2 against .08).
        (1, [0, 3, 2, 1]),
        # Without attention the second, which covers .8, 1, .6, 0. Left .2, .4, 1.
        (0, [1, 3, 2, 0]),
    ],
)
def test_scope(power, picks):
    saliency = torch.tensor([0.4, 0.1, 0.2, 0.3])
    tokens = random_tokens(4, 3)
    selector = SCOPE(4, saliency_power=power)
    assert order(selector, tokens, 4, saliency=saliency, encoded=CIRCLE) == picks
    assert order(selector, tokens, 4, saliency=saliency * 1e6, encoded=CIRCLE * 1e-20) == picks


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SCOPE(4, saliency_power=-1), r"saliency_power=-1: expected a number >= 0"),
        (lambda: SCOPE(4, saliency_power=True), "saliency_power=True: expected a number >= 0"),
        (lambda: MMTok(4, text_temperature=0), "text_temperature=0: expected a number > 0"),
        (lambda: MMTok(4, image_temperature="x"), "image_temperature='x': expected a number > 0"),
        (lambda: MMTok(4, image_weight=float("nan")), "image_weight=nan: expected a number >= 0"),
    ],
)
def test_settings_are_checked(make, says):
    with pytest.raises(OTPruneError, match=says):
        make()
