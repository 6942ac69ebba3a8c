"""Numbers of visual tokens, of families whose processors need no torchvision.

The other families are in tests/engines/vllm/test_plan.py, where torchvision can be imported.
"""

from __future__ import annotations

import pytest

from .checks import SIZES, check_tokens
from .processors import PROCESSORS


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_tokens_are_those_of_processor_model_and_engine(name: str, size: str) -> None:
    check_tokens(name, [SIZES[size]])


@pytest.mark.parametrize("name", PROCESSORS)
def test_several_images_of_different_sizes(name: str) -> None:
    check_tokens(name, [SIZES["square"], SIZES["tall strip"], SIZES["icon"]])
