"""The row that travels with an image says exactly how it is pruned."""

from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import pytest
import torch

import otprune
from otprune.engines.vllm.rows import Asked, Plan, read, write
from otprune.engines.vllm.rows import plan as plan_of
from otprune.selectors.named import settings_of
from tests.random_tokens import TOKENS_ALONE

# Another value than the default for every setting of every method.
OTHER = {
    "gamma": [0.01, 1e18, 5e-324, float(np.nextafter(0.01, 1))],
    "rank": [64, "auto"],
    "backend": ["triton"],
    "metric": ["euclidean"],
    "seed": [3, 2**63 - 1],
    "question": [0.5],
    "saliency": [0.25],
    "damping": [2.0],
}


def plans():
    for name, method in TOKENS_ALONE.items():
        yield Plan(1, 9, Asked(method(3)))
        yield Plan(2, 9, Asked(method(9), True, "token", 0.1))
        for setting in settings_of(name):
            for value in OTHER[setting]:
                yield Plan(3, 2**40, Asked(method(7, **{setting: value}), True))


@pytest.mark.parametrize("plan", list(plans()), ids=str)
def test_what_is_read_is_what_was_written(plan):
    row = write(plan)
    assert row.dtype == torch.int64
    again = read(row)
    assert again == plan
    for field in fields(plan.asked.selector):
        one, other = (getattr(x.asked.selector, field.name) for x in (again, plan))
        assert (type(one), one) == (type(other), other)
    assert again.k == plan.asked.selector.keep


@pytest.mark.parametrize("stage", [otprune.EncoderStage(0.35), otprune.EncoderStage(7, after=2)])
def test_a_stage_inside_the_encoder_travels_too(stage):
    plan = Plan(1, 9, Asked(otprune.OTPrune(3), stage=stage))
    assert read(write(plan)) == plan


@pytest.mark.parametrize(("keep", "k"), [(0.25, 25), (0.5, 35), (0.99, 35), (1.0, 100), (99, 35)])
def test_no_more_are_kept_than_differ_unless_all_are(keep, k):
    asked = Asked(otprune.OTPrune(keep))
    assert plan_of(asked, 1, 100, most=35).k == k
    assert plan_of(asked, 1, 100).k == otprune.count(keep, 100)


def test_a_row_survives_stacking_and_copies():
    plan = Plan(1, 576, Asked(otprune.OTPrune(57, gamma=0.01, rank=64), True))
    stacked = torch.stack([write(plan), write(plan)])
    assert [read(row) for row in stacked] == [plan, plan]
    assert read(stacked.T.contiguous().T[1]) == plan  # no longer one block of memory


def test_settings_of_a_new_method_travel_too(monkeypatch):
    @dataclass(frozen=True)
    class Striped(otprune.GridPrune):
        stripes: str = "two"
        name: ClassVar[str] = "striped"

    monkeypatch.setitem(otprune.METHODS, "striped", Striped)
    plan = Plan(1, 9, Asked(Striped(3, stripes="fünf")))
    assert read(write(plan)) == plan
