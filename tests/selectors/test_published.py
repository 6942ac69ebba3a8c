"""The methods of other groups, on small cases worked by hand from what was published."""

import pytest
import torch

from otprune import (
    SCOPE,
    CDPruner,
    Cues,
    DPPPrune,
    FasterVLM,
    HoloV,
    MMTok,
    OTPruneError,
    PruMerge,
    PruMergePlus,
    VisionZip,
    VisPruner,
)
from otprune.selectors.cdpruner import relevance
from otprune.selectors.prumerge import neighbour_weights
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
    even = relevance(AXES[[0, 0, 0]][None], WORDS[None])
    assert torch.equal(even, torch.ones(1, 3))


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


def test_scope_has_the_published_power():
    assert SCOPE(4).saliency_power == 1.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_scope_with_a_large_power(scale):
    """The power of the largest saliency is 1, whatever it is itself."""
    saliency = scale * torch.tensor([1e-3, 1.0, 0.5, 0.25])
    tokens = torch.arange(4.0, 0, -1)[:, None]  # of equal gains the first would be picked
    picks = order(SCOPE(4, saliency_power=60), tokens, 4, saliency=saliency, encoded=torch.eye(4))
    assert picks == [1, 2, 3, 0]


def circle(*degrees):
    """Features at these angles: the cosine of two is that of the angle between them."""
    angles = torch.tensor(degrees, dtype=torch.float32).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def falling(m):
    """Saliency from large to small in the order of the tokens."""
    return torch.arange(m, 0, -1.0) / m


def test_vispruner():
    # Of four two are important. The list 2 3 4 5 6 7: all of 2 4 6 are removed (8 at most, 3 there
    # are, 4 too many). The list 3 5 7, an odd one: 3 and 7 against 5, 40 and 50 degrees: 3 goes.
    features = circle(1, 2, 3, 0, 4, 40, 5, 90)
    tokens = random_tokens(8, 3)
    said = order(VisPruner(4), tokens, 4, saliency=falling(8), encoded=features)
    assert said == [0, 1, 7, 5]
    # All important, none important.
    for ratio, kept in ((1, [0, 1, 2, 3]), (0, [1, 3, 5, 7])):
        selector = VisPruner(4, important_ratio=ratio)
        said = order(selector, tokens, 4, saliency=falling(8), encoded=features)
        assert sorted(said) == kept


@pytest.mark.parametrize(("k", "gone"), [(12, []), (11, [0]), (10, [0, 17])])
def test_vispruner_removes_eight_and_sorts_what_it_leaves(k, gone):
    # The odd places lie 20 degrees apart (17 is a degree off), from 10 to 190. The even ones are
    # 9, 1, 2, 3, 4, 5, 6, 7, 7 and 70 degrees from the nearest of them: all but 0 and 18 go.
    # The list: 0, 18 (from the most like an odd one to the least), 1, 3, 5, ... 19. Its halves are
    # 0 1 5 9 13 17 and 18 3 7 11 15 19: 0, at 19, is 11 degrees from 3; 17 is 19 from 19; the
    # others are 20 away. In the order 18, 0 the first half would have had 18, and kept 0.
    even = [19, 31, 52, 73, 94, 115, 136, 157, 178, 300]
    odd = [10, 30, 50, 70, 90, 110, 130, 150, 171, 190]
    features = circle(*(angle for pair in zip(even, odd, strict=True) for angle in pair))
    tokens = random_tokens(20, 3)
    selector = VisPruner(k, important_ratio=0)
    kept = order(selector, tokens, k, saliency=falling(20), encoded=features)
    assert set(kept) == {0, 18, *range(1, 20, 2)} - set(gone)


SALIENT = torch.tensor([0.1, 0.1, 0.7, 0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(("k", "dominant"), [(192, 162), (128, 108), (64, 54)])
def test_visionzip_shares_its_budget_as_published(k, dominant):
    tokens = random_tokens(576, 4)
    saliency = torch.randperm(576, generator=torch.Generator().manual_seed(0)).float()  # no ties
    picks = order(VisionZip(k), tokens, k, saliency=saliency, keys=torch.rand(576, 2, 3))
    rest = [i for i in range(576) if i not in saliency.topk(dominant).indices.tolist()]
    assert picks[:dominant] == saliency.topk(dominant).indices.tolist()
    # 414 // 30 = 13, 468 // 20 = 23, 522 // 10 = 52.
    step = {192: 13, 128: 23, 64: 52}[k]
    assert picks[dominant:] == [rest[i * step] for i in range(k - dominant)]


def test_visionzip():
    # Dominant 5 and 2. The other nine, 0 1 3 4 6 7 8 9 10: every 9 // 2 = 4th is 0, 6 and 10; two.
    # Mean keys: that of 0 is (1, 0), that of 6 (0, 1). 1, 7 and 8 are nearer to 0; 3, 4, 9 and 10
    # to 6, 4 by the mean of (4, 0) and (-4, 2) alone. Tokens are 1, 2, ... 11:
    # 1 + (2 + 8 + 9) / 3 = 7.3333, and 7 + (4 + 5 + 10 + 11) / 4 = 14.5.
    keys = torch.zeros(11, 2, 2)
    keys[[0, 1, 7, 8], :, 0] = 1.0
    keys[1, 1] = torch.tensor([1.0, 2])
    keys[[3, 6, 9, 10], :, 1] = 2.0
    keys[4] = torch.tensor([[4.0, 0], [-4, 2]])
    tokens = torch.stack([torch.arange(1.0, 12), torch.ones(11)], dim=-1)
    cues = Cues(saliency=SALIENT, keys=keys)
    selector = VisionZip(4, dominant_ratio=0.5)
    said = selector.reduce(tokens, merge=True, cues=cues)
    assert said.indices.tolist() == [0, 2, 5, 6]
    wanted = torch.tensor([[1 + 19 / 3, 2], [3, 1], [6, 1], [14.5, 2]])
    torch.testing.assert_close(said.features, wanted)
    assert selector.reduce(tokens, cues=cues).features.equal(tokens[[0, 2, 5, 6]])
    # To a contextual token that no other is nearest to nothing is added: equal keys are those of
    # the first. (2 + 4 + 5 + 8 + 9 + 10 + 11) / 7 = 7.
    said = selector.reduce(tokens, merge=True, cues=Cues(saliency=SALIENT, keys=keys * 0 + 1))
    wanted = torch.tensor([[8.0, 2], [3, 1], [6, 1], [7, 1]])
    torch.testing.assert_close(said.features, wanted)


def test_prumerge():
    # Kept are 1 (.4) and 4 (.25). Keys at 10, 0, 40, 95 and 100 degrees: 0 and 2 are nearest to 1,
    # 3 and 2 to 4. Tokens are 1, 10, 100, 1000 and 10000:
    # 10 + .1 * 1 + .2 * 100 = 30.1, and 10000 + .05 * 1000 + .2 * 100 = 10070.
    saliency = torch.tensor([0.1, 0.4, 0.2, 0.05, 0.25])
    keys = circle(10, 0, 40, 95, 100)[:, None] * torch.tensor([[1.0], [7]])[None]  # two heads
    tokens = torch.tensor([1.0, 10, 100, 1000, 10000])[:, None].repeat(1, 2)
    cues = Cues(saliency=saliency, keys=keys)
    said = PruMerge(2, neighbours=2).reduce(tokens, merge=True, cues=cues)
    assert said.indices.tolist() == [1, 4]
    torch.testing.assert_close(said.features[:, 0], torch.tensor([30.1, 10070]))
    # All four others, kept ones too, where there are no 32:
    # 10 + .1 + 20 + 50 + 2500 = 2580.1, and 10000 + .1 + 4 + 20 + 50 = 10074.1.
    said = PruMerge(2).reduce(tokens, merge=True, cues=cues)
    torch.testing.assert_close(said.features[:, 0], torch.tensor([2580.1, 10074.1]))


def test_keys_are_compared_over_all_heads():
    # The mean over heads of 1 is 0's, but by both heads 2 is nearer.
    keys = torch.tensor([[[1.0, 0], [1, 0]], [[1, 5], [1, -5]], [[1, 1], [1, 0]]])
    tokens = torch.tensor([[1.0], [10], [100]])
    cues = Cues(saliency=torch.tensor([0.5, 0.2, 0.1]), keys=keys)
    said = PruMerge(1, neighbours=1).reduce(tokens, merge=True, cues=cues)
    torch.testing.assert_close(said.features, torch.tensor([[1 + 0.1 * 100]]))


def test_prumerge_merges_what_is_least_opposite():
    """Where all other keys point away from the kept one's."""
    tokens = torch.tensor([3.0, 9, 1, 9, 2])[None, :, None]
    keys = circle(0, 170, 100, 180, 140)[None, :, None]
    cues = Cues(saliency=torch.tensor([[0.4, 0.1, 0.2, 0.05, 0.25]]), keys=keys)
    made = neighbour_weights(tokens, torch.tensor([[0]]), cues, 2)
    torch.testing.assert_close(made, torch.tensor([[[1, 0, 0.2, 0, 0.25]]]))


def test_prumerge_plus():
    # Two salient of four, 5 and 2. The other nine, 0 1 3 4 6 7 8 9 10: at 9 / 4 and 27 / 4, rounded
    # down 2 and 6: 3 and 8. Of five three are salient; of the first of equals the longest: 7.
    tokens = torch.ones(11, 2)
    tokens[7] = 2
    keys = torch.rand(11, 2, 2)
    assert order(PruMergePlus(4), tokens, 4, saliency=SALIENT, keys=keys) == [5, 2, 3, 8]
    # The other eight, 0 1 3 4 6 8 9 10: at 8 / 4 and 24 / 4, 3 and 9.
    assert order(PruMergePlus(5), tokens, 5, saliency=SALIENT, keys=keys) == [5, 2, 7, 3, 9]
    cues = Cues(saliency=SALIENT, keys=keys)
    said = PruMergePlus(4).reduce(tokens, merge=True, cues=cues)
    # 1 + all others by their saliency, which sums to 2.5, and 7 counts twice.
    wanted = 1 + 2.6 - SALIENT[said.indices]
    torch.testing.assert_close(said.features[:, 0], wanted)


# Crops of four and three; mean saliency .2 and .2 / 3: three quarters and one quarter.
ATTENDED = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.05, 0.1, 0.05])


@pytest.mark.parametrize(
    ("k", "kept"),
    [
        (1, [2]),  # .75 and .25, rounded down none: one for the larger
        (2, [1, 2]),  # 1.5 and .5: one, and another for the larger; the first of equals
        (4, [1, 2, 3, 5]),  # three and one
        (5, [0, 1, 2, 3, 5]),  # 3.75 and 1.25: three and one, and another for the larger
        (6, [0, 1, 2, 3, 4, 5]),  # 4.5 and 1.5: four and one; the larger is full
    ],
)
def test_holov(k, kept):
    selector = HoloV(k, crops=2, diversity=0)
    said = selector.select(random_tokens(1, 3).repeat(7, 1), cues=Cues(saliency=ATTENDED))
    assert said.tolist() == kept


@pytest.mark.parametrize(("second", "kept"), [(0.276, 2), (0.275, 1)])
def test_holov_moves_its_budget_to_what_varies(second, kept):
    # Two tokens in a crop: mu = cos, var = (0 - cos)^2. In the first crop cos = 0 and var = 0, in
    # the second both are 1: .3 against 1.09 * .276 = .3008, or 1.09 * .275 = .29975.
    tokens = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, 2]])
    saliency = torch.tensor([0.2, 0.4, second + 0.1, second - 0.1])
    said = HoloV(1, crops=2).select(tokens, cues=Cues(saliency=saliency))
    assert said.tolist() == [kept]


def test_holov_keeps_k_whatever_is_attended():
    tokens = random_tokens(50, 3)
    for saliency in (torch.zeros(50), torch.eye(50)[7], falling(50)):
        for k in range(1, 50):
            for crops in (1, 7, 99):
                made = HoloV(k, crops=crops).select(tokens, cues=Cues(saliency=saliency))
                assert made.unique().shape == (k,)
                assert saliency.sum() != 1 or 7 in made


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SCOPE(4, saliency_power=-1), r"saliency_power=-1: expected a number >= 0"),
        (lambda: SCOPE(4, saliency_power=True), "saliency_power=True: expected a number >= 0"),
        (lambda: MMTok(4, text_temperature=0), "text_temperature=0: expected a number >= 1e-06"),
        (
            lambda: MMTok(4, image_temperature="x"),
            "image_temperature='x': expected a number >= 1e-06",
        ),
        (lambda: VisPruner(4, important_ratio=2), "important_ratio=2: .* >= 0 and <= 1"),
        (lambda: VisionZip(4, dominant_ratio=-0.1), "dominant_ratio=-0.1: expected a number"),
        (lambda: PruMerge(4, neighbours=0), "neighbours=0: expected a whole number >= 1"),
        (lambda: PruMergePlus(4, neighbours=2.5), "neighbours=2.5: expected a whole number"),
        (lambda: PruMergePlus(4, salient_ratio=None), "salient_ratio=None: expected a number"),
        (lambda: HoloV(4, crops=True), "crops=True: expected a whole number"),
        (lambda: HoloV(4, diversity=-1), "diversity=-1: expected a number >= 0"),
        (lambda: MMTok(4, image_weight=float("nan")), "image_weight=nan: expected a number >= 0"),
        (
            lambda: MMTok(4, image_weight=1e39),
            r"image_weight=1e\+39: expected a number >= 0 and <=",
        ),
    ],
)
def test_settings_are_checked(make, says):
    with pytest.raises(OTPruneError, match=says):
        make()
