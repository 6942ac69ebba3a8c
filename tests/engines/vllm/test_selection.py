"""The choice among the features of one encoder run: what the selectors would say one by one."""

import pytest
import torch

import otprune
from otprune.engines.vllm.rows import Asked, Plan
from otprune.engines.vllm.selection import choose
from otprune.measures.mass import log_mass
from tests.random_tokens import random_tokens


def tokens(m, d, seed):
    return random_tokens(m, d, seed=seed)


def plan(m, selector, merge=False, sets=1):
    return Plan(sets, m, Asked(selector, merge))


def test_images_of_any_size_and_setting_are_chosen_as_if_alone():
    asked = [
        (12, otprune.OTPrune(3), False),
        (20, otprune.DivPrune(5), False),
        (12, otprune.OTPrune(3), False),
        (12, otprune.OTPrune(3, gamma=1e6), False),
        (12, otprune.OTPrune(3, rank=2), False),
        (12, otprune.OTPrune(12), True),
        (12, otprune.TransportPrune(4), True),
        (12, otprune.TransportPrune(4, metric="euclidean"), True),
        (12, otprune.RandomPrune(4, seed=1), False),
        (12, otprune.RandomPrune(4, seed=2), False),
    ]
    images = [tokens(m, 6, seed) for seed, (m, *_) in enumerate(asked)]
    kept = choose(images, [plan(*x) for x in asked])
    for image, (_, selector, merge), got in zip(images, asked, kept, strict=True):
        wanted = selector.reduce(image, merge=merge)
        assert torch.equal(got.indices, wanted.indices)
        torch.testing.assert_close(got.rows, wanted.features)


@pytest.mark.parametrize("merge", [False, True])
def test_stacked_levels_follow_their_token(merge):
    image = tokens(12, 8, 0)
    (got,) = choose([image], [plan(12, otprune.TransportPrune(4), merge)], width=5)
    wanted = otprune.TransportPrune(4).reduce(image[:, :5], merge=merge)
    assert torch.equal(got.indices, wanted.indices)
    torch.testing.assert_close(got.rows[:, :5], wanted.features)
    assert torch.equal(got.rows[:, 5:], image[wanted.indices, 5:])


@pytest.mark.parametrize("merge", [False, True])
def test_frames_that_stand_apart_are_chosen_as_if_alone(merge):
    videos = [tokens(3 * 12, 6, 0), tokens(3 * 12, 6, 1)]
    kept = choose(videos, [plan(12, otprune.TransportPrune(4), merge, sets=3)] * 2)
    for video, got in zip(videos, kept, strict=True):
        wanted = [otprune.TransportPrune(4).reduce(x, merge=merge) for x in video.view(3, 12, 6)]
        assert torch.equal(got.indices, torch.cat([x.indices for x in wanted]))
        torch.testing.assert_close(got.rows, torch.cat([x.features for x in wanted]))


def test_keeping_all_hands_over_the_same_tensor():
    image = tokens(9, 4, 0)
    (got,) = choose([image], [plan(9, otprune.OTPrune(9), merge=True)])
    assert got.rows is image
    (got,) = choose([image], [plan(3, otprune.OTPrune(3), sets=3)])
    assert got.rows is image
    assert got.indices.tolist() == [0, 1, 2] * 3


def test_features_that_are_not_finite_do_not_end_the_engine():
    image = tokens(9, 4, 0)
    image[2, 1] = float("nan")
    (got,) = choose([image], [plan(9, otprune.OTPrune(3))])
    assert torch.equal(got.rows.isnan(), image[got.indices].isnan())
    image[2, 1] = 0.0
    assert torch.equal(got.indices, otprune.OTPrune(3).select(image))


def test_a_group_goes_by_one_choice():
    image = tokens(9, 4, 0)
    first = torch.tensor([[1, 2, 3]])
    (got,) = choose([image], [plan(9, otprune.OTPrune(3))], agree=lambda x: first)
    assert torch.equal(got.rows, image[1:4])


def test_another_number_of_tokens_is_an_error():
    with pytest.raises(otprune.OTPruneError, match=r"made 9 tokens.*counted as 8"):
        choose([tokens(9, 4, 0)], [plan(4, otprune.OTPrune(3), sets=2)])


@pytest.mark.parametrize("mass", ["none", "total", "token"])
def test_masses_are_those_of_the_selector_and_a_whole_set_has_none(mass):
    image, selector = tokens(24, 6, 0), otprune.TransportPrune(4)
    plans = [
        Plan(2, 12, Asked(selector, True, mass, 0.5)),
        plan(24, otprune.TransportPrune(24), True),
    ]
    part, whole = choose([image, image], plans)
    alone = [selector.reduce(x, merge=True) for x in image.view(2, 12, 6)]
    wanted = [log_mass(one.masses, 12, mass, 0.5) for one in alone]
    torch.testing.assert_close(part.log_mass, torch.cat(wanted))
    assert torch.equal(whole.log_mass, torch.zeros(24))
