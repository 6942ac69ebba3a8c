"""One budget over all frames."""

import numpy as np
import pytest
import torch

import otprune
from otprune import KeepError, TokenError, select_video
from otprune.numerics.normalize import unit_rows
from otprune.streaming.novelty import value
from tests.random_tokens import random_tokens


def frames(t=6, m=20, d=32, seed=0):
    return random_tokens(t, m, d, seed=seed)


def sizes(kept):
    return [len(i) for i in kept]


@pytest.mark.parametrize("budget", [1, 7, 0.1, 0.5, 1.0, 120, 999])
def test_the_budget_is_one_over_all_frames(budget):
    kept = select_video(frames(), budget)
    assert sum(sizes(kept)) == otprune.count(budget, 120)
    assert all(i.dtype == torch.int64 and (i.diff() > 0).all() for i in kept)


def test_a_still_scene_costs_nothing_after_its_first_frame_and_a_cut_does():
    one, other = frames(t=2)
    still = torch.stack([one, one, one, other, other])
    assert sizes(select_video(still, 12))[1:3] == [0, 0]
    assert sizes(select_video(still, 12))[4] == 0
    assert min(sizes(select_video(still, 12))[::3]) >= 3
    noisy = still + 0.02 * random_tokens(*still.shape, seed=5)
    assert sizes(select_video(noisy, 12))[1:3] == [0, 0]


def test_worth_more_than_frame_by_frame():
    video = torch.cat([frames(t=2).repeat_interleave(3, 0), frames(t=1, seed=9)])
    alone = otprune.DPPPrune(4).select(video)
    points = unit_rows(video)
    apart = torch.cat([p[i] for p, i in zip(points, alone, strict=True)])
    joint = torch.cat([p[i] for p, i in zip(points, select_video(video, 28), strict=True)])
    assert value(joint) > 1.1 * value(apart)


def test_floor():
    video = frames(t=1).repeat(4, 1, 1)
    assert sizes(select_video(video, 12, floor=2)) == [6, 2, 2, 2]
    assert sizes(select_video([video[0], video[1, :1]], 5, floor=2)) == [4, 1]
    with pytest.raises(KeepError, match="floor=2 takes 8 tokens of 4 frames, the budget is 7"):
        select_video(video, 7, floor=2)
    whole = select_video(video, otprune.Budget(12, floor=2))
    assert sizes(whole) == [6, 2, 2, 2]
    with pytest.raises(KeepError, match="which has one"):
        select_video(video, otprune.Budget(12), floor=2)
    with pytest.raises(KeepError, match="depends on the tokens"):
        select_video(video, "auto")
    for floor in (-1, 1.0, True):
        with pytest.raises(KeepError, match="a number of tokens a frame"):
            select_video(video, 7, floor=floor)


def test_what_frames_may_be():
    video = frames()
    kept = select_video(video, 0.2)
    for same in (
        list(video),
        video.numpy(),
        [np.asarray(x) for x in video],
        video.double(),
        video * 1e20,
        [x * 10.0**i for i, x in enumerate(video)],
    ):
        assert all(torch.equal(a, b) for a, b in zip(select_video(same, 0.2), kept, strict=True))
    assert sizes(select_video(video[0], 3)) == [3]
    ragged = [video[0, :3], video[1], video[2, :1]]
    assert sum(sizes(select_video(ragged, 0.5))) == 12
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(select_video(video, 0.2)[0], kept[0])
    half = video.bfloat16()
    assert torch.equal(select_video(half, 0.2)[1], select_video(half.float(), 0.2)[1])


@pytest.mark.parametrize(
    "wrong", [[], torch.zeros(4), [torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2, 0, 3)]
)
def test_what_frames_may_not_be(wrong):
    with pytest.raises(TokenError):
        select_video(wrong, 0.5)


def test_a_bad_budget():
    with pytest.raises(KeepError):
        select_video(frames(), 0)
