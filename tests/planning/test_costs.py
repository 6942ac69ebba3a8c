"""Operations and bytes of a plan, against torch's counter and the caches of real models."""

from __future__ import annotations

import pytest

from .checks import SIZES, check_costs
from .processors import PROCESSORS


@pytest.mark.parametrize("size", ["wide strip", "icon"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_operations_and_cache_are_those_of_the_real_model(name: str, size: str) -> None:
    check_costs(name, [SIZES[size]])
