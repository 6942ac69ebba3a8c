"""One model of each family and attention, shared by tests: pruning must not change it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.families.tiny import FAMILIES


@cache
def _model(name: str, attention: str) -> Any:
    return FAMILIES[name].model(attention)


@pytest.fixture(scope="session")
def build() -> Callable[..., Any]:
    def of(name: str, attention: str = "sdpa") -> Any:
        return _model(name, attention)

    return of
