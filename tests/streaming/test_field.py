"""Selectors of the field for streams and clips, by hand-worked examples and by their rules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune import (
    DTD,
    EVS,
    KeepError,
    OTPruneError,
    StaticPatches,
    TokenError,
    UniformStream,
    VidCom2,
    count,
)
from tests.random_tokens import random_tokens


def turned(*degrees):
    """Tokens of two features, by their angles: cosines are those of differences."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def lists(kept):
    return [indices.tolist() for indices in kept]


# -- DTD -------------------------------------------------------------------------------------------


def test_dtd_by_hand():
    stream = DTD(math.cos(math.radians(30)))
    pushed = [
        turned(0, 0, 0, 0),
        3 * turned(0, 29, 31, 180),  # lengths do not matter
        turned(0, 0, 0, 0),  # against the frame before, not against what was kept
        turned(20, 20, 20, 20),
        turned(40, 40, 40, 40),  # 40 degrees in two frames: never enough in one
    ]
    assert lists(map(stream.push, pushed)) == [[0, 1, 2, 3], [2, 3], [2, 3], [], []]


def test_dtd_drops_what_equals_even_zero():
    stream = DTD(0.99)
    stream.push(torch.zeros(3, 2))
    assert stream.push(torch.tensor([[0.0, 0], [1, 0], [0, 0]])).tolist() == [1]


def test_copies_tie_whatever_their_rounding():
    """Cosines of copies are 1 but for rounding, which must neither keep nor order them."""
    frame = random_tokens(40, 64, seed=3)
    patches = random_tokens(40, 30, seed=4)
    static = StaticPatches(1.0, 0.5)
    static.push(frame, patches=patches)
    assert static.push(frame, patches=patches).tolist() == list(range(20, 40))
    assert lists(EVS(60).select([frame, frame, frame])) == [[*range(40)], [*range(20)], []]
    drops = DTD(1.0)  # nothing exceeds it
    drops.push(frame)
    assert drops.push(3 * frame).tolist() == list(range(40))


@given(low=st.floats(-0.9, 0.9), seed=st.integers(0, 50))
def test_a_higher_threshold_keeps_more(low, seed):
    clip = random_tokens(3, 9, 4, seed=seed)
    few, many = DTD(low), DTD(low + 0.1)
    for frame in clip:
        assert set(few.push(frame).tolist()) <= set(many.push(frame).tolist())


@pytest.mark.parametrize("wrong", [-1, 1.1, math.nan, math.inf, True, "high"])
def test_thresholds_are_checked(wrong):
    for make in (DTD, StaticPatches):
        with pytest.raises(OTPruneError, match="threshold"):
            make(wrong)


# -- static patches --------------------------------------------------------------------------------


def test_static_patches_by_hand():
    frame = random_tokens(4, 3)
    stream = StaticPatches(math.cos(math.radians(30)), share=0.5)
    still = turned(0, 0, 0, 0)
    pushed = [still, turned(29, 10, 0, 31), still, still]
    kept = [stream.push(frame, patches=pixels) for pixels in pushed]
    # Three of four are static, of which the two most alike are reused; at last all four are equal.
    assert lists(kept) == [[0, 1, 2, 3], [0, 3], [0, 3], [2, 3]]


def test_static_patches_reuse_at_most_their_share():
    still, frame = random_tokens(256, 12).abs(), random_tokens(256, 4)
    for stream, least in ((StaticPatches(), 106), (StaticPatches(share=1.0), 0)):
        stream.push(frame, patches=still)
        assert len(stream.push(frame, patches=still)) == least


def test_static_patches_do_not_look_at_tokens():
    stream = StaticPatches(share=1.0)
    pixels = torch.zeros(5, 2)  # black and black is equal
    stream.push(random_tokens(5, 3), patches=pixels)
    assert len(stream.push(random_tokens(5, 4, seed=1), patches=pixels)) == 0


@pytest.mark.parametrize("share", [0, 1.5, True])
def test_shares_are_checked(share):
    with pytest.raises(OTPruneError, match="share"):
        StaticPatches(share=share)


# -- uniform ---------------------------------------------------------------------------------------


def test_uniform_by_hand():
    stream, frame = UniformStream(2.5), random_tokens(8, 3)
    middle_of_halves, middle_of_thirds = [2, 6], [1, 4, 6]
    assert lists(stream.push(frame) for _ in range(4)) == 2 * [middle_of_halves, middle_of_thirds]
    assert lists(UniformStream(k).push(frame) for k in (0.5, 8, 99)) == [
        [],
        list(range(8)),
        list(range(8)),
    ]


@given(rate=st.floats(0.1, 12), frames=st.integers(1, 30))
def test_uniform_keeps_its_rate(rate, frames):
    stream, frame = UniformStream(rate), random_tokens(12, 2)
    assert sum(len(stream.push(frame)) for _ in range(frames)) == int(rate * frames)


# -- EVS -------------------------------------------------------------------------------------------


def test_evs_by_hand():
    clip = [turned(0, 0, 0), turned(10, 50, 0), turned(40, 50, 20)]  # turned by 10 50 0, 30 0 20
    assert lists(EVS(5).select(clip)) == [[0, 1, 2], [1], [0]]
    assert lists(EVS(7).select(clip)) == [[0, 1, 2], [0, 1], [0, 2]]
    assert lists(EVS(1).select(clip)) == [[0, 1, 2], [], []]  # the first frame stays whole


def test_evs_keeps_frames_of_another_size_whole():
    clip = [turned(0, 0), turned(0, 0), turned(0, 0, 0), turned(0, 90, 0)]
    assert lists(EVS(6).select(clip)) == [[0, 1], [], [0, 1, 2], [1]]


@given(keep=st.floats(0.05, 1), seed=st.integers(0, 50))
def test_evs_is_dtd_at_the_largest_cosine_that_it_keeps(keep, seed):
    clip = random_tokens(5, 7, 4, seed=seed)
    kept = EVS(keep).select(clip)
    assert sum(map(len, kept)) == max(7, count(keep, 35))
    alike = torch.cosine_similarity(clip[1:], clip[:-1], dim=-1)
    within = [x[i] for x, i in zip(alike, kept[1:], strict=True)]
    if sum(map(len, within)):
        stream = DTD(min(1.0, float(torch.cat(within).max()) + 1e-6))
        assert lists(map(stream.push, clip)) == lists(kept)


# -- VidCom2 ---------------------------------------------------------------------------------------


def test_vidcom2_by_hand():
    """One odd token in a frame; the frame that stands out gets its share doubled."""
    axis, other = [1.0, 0, 0, 0], [0.0, 1, 0, 0]
    far = [0.0, 0, 40, 90]  # features of high variance, which are not looked at
    still = torch.tensor([axis, axis, axis, axis])
    odd = torch.tensor([axis, axis, other, axis])
    clip = torch.stack([still, odd, still])
    clip[0, 1] += torch.tensor(far)
    first, second, third = lists(VidCom2(0.25).select(clip))
    # keep * m = 1 a frame; the odd frame is least like the clip by more than the temperature,
    # p = (0, 1, 0), so its 1 + p - 1/3 = 5/3 tokens are rounded to 2, the others' 2/3 to 1.
    assert (first, second, third) == ([0], [0, 2], [0])


def test_vidcom2_does_not_depend_on_the_scale_of_features():
    clip = random_tokens(4, 20, 8, seed=2)
    wanted = lists(VidCom2(0.3).select(clip))
    for power in (-100, 100):
        assert lists(VidCom2(0.3).select(clip * 2.0**power)) == wanted


def test_vidcom2_equals_its_formula():
    clip = random_tokens(3, 6, 8)
    variance = clip.reshape(18, 8).var(dim=0, unbiased=False)
    x = torch.nn.functional.normalize(clip[..., variance.sort().indices[:4]].double(), dim=-1)
    score = {}
    for name, centre in (("clip", x.mean((0, 1))), ("frame", x.mean(1)[:, None])):
        square = (x - centre).pow(2).sum(-1)
        score[name] = sum(torch.exp(-square / (2 * a)) for a in (0.125, 0.25, 0.5, 1, 2))
    p = torch.softmax(-score["clip"].mean(1) / 0.01, 0)
    for keep in (0.2, 0.5, 0.9):
        for t, kept in enumerate(VidCom2(keep).select(clip)):
            k = min(6, max(1, round(float(keep * 6 * (1 + p[t] - 1 / 3)))))
            wanted = (score["clip"] + score["frame"])[t].sort().indices[:k].sort().values
            assert torch.equal(kept, wanted)


@given(keep=st.floats(0.01, 1), seed=st.integers(0, 50), d=st.integers(1, 9))
def test_vidcom2_keeps_one_at_least_and_about_its_ratio(keep, seed, d):
    kept = VidCom2(keep).select(random_tokens(4, 10, d, seed=seed))
    assert all(1 <= len(i) <= 10 and (i.diff() > 0).all() for i in kept)
    if 0.1 <= keep <= 0.5:  # nothing is full or empty, only rounded
        assert abs(sum(map(len, kept)) - 40 * keep) <= 2


def test_clips_and_ratios_are_checked():
    assert lists(VidCom2(1.0).select(random_tokens(1, 3, 4))) == [[0, 1, 2]]
    with pytest.raises(TokenError, match="as many in each"):
        VidCom2(0.5).select([turned(0, 0), turned(0)])
    with pytest.raises(KeepError, match="shares out a ratio"):
        VidCom2(5)
    for make in (EVS, VidCom2):
        with pytest.raises(KeepError):
            make(1.5)
        with pytest.raises(TokenError):
            make(0.5).select([turned(0), torch.zeros(2, 3)])
