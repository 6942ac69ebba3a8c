"""The methods, one a file, and `METHODS`: their short names."""

from __future__ import annotations

from otprune.selectors.base import Selector
from otprune.selectors.check import check_selector
from otprune.selectors.divprune import DivPrune
from otprune.selectors.dpp import DPPPrune
from otprune.selectors.grid import GridPrune
from otprune.selectors.herding import HerdingPrune
from otprune.selectors.norm import NormPrune
from otprune.selectors.otprune import OTPrune
from otprune.selectors.preset import recommended
from otprune.selectors.random import RandomPrune
from otprune.selectors.results import Reduction, Selection
from otprune.selectors.transport import TransportPrune

METHODS: dict[str, type[Selector]] = {
    method.name: method
    for method in (
        OTPrune,
        TransportPrune,
        HerdingPrune,
        DivPrune,
        DPPPrune,
        NormPrune,
        GridPrune,
        RandomPrune,
    )
}

__all__ = [
    "METHODS",
    "DPPPrune",
    "DivPrune",
    "GridPrune",
    "HerdingPrune",
    "NormPrune",
    "OTPrune",
    "RandomPrune",
    "Reduction",
    "Selection",
    "Selector",
    "TransportPrune",
    "check_selector",
    "recommended",
]
