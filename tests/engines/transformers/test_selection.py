"""Log masses of the kept tokens of an image."""

from __future__ import annotations

import math

import pytest
import torch

from otprune import OTPrune
from otprune.engines.transformers.selection import choose, log_masses

IMAGES = [torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 12)]


@pytest.mark.parametrize("mass", ["total", "token"])
def test_log_masses_of_an_image_kept_whole_are_exactly_zero(mass) -> None:
    small, large = choose(OTPrune(6), IMAGES, [0, 0], merge=False)
    assert torch.equal(log_masses(small, 4, mass, 1.0), torch.zeros(4))
    weights = log_masses(large, 12, mass, 1.0)
    assert weights.exp().sum() == pytest.approx(12, rel=1e-5)
    if mass == "total":
        assert weights.tolist() == pytest.approx([math.log(2)] * 6)


def test_masses_are_computed_only_for_mass_token() -> None:
    (choice,) = choose(OTPrune(6), IMAGES[1:], [0], merge=False)
    choice.made.lazy_masses._value = None  # calling it would raise
    assert log_masses(choice, 12, "total", 0.5).tolist() == pytest.approx([0.5 * math.log(2)] * 6)
