"""The methods, one a file, and what makes them from names: `METHODS` and `by_name`."""

from __future__ import annotations

from otprune.selectors.base import Selector
from otprune.selectors.check import check_selector
from otprune.selectors.divprune import DivPrune
from otprune.selectors.dpp import DPPPrune
from otprune.selectors.grid import GridPrune
from otprune.selectors.herding import HerdingPrune
from otprune.selectors.named import METHODS, by_name
from otprune.selectors.norm import NormPrune
from otprune.selectors.otprune import OTPrune
from otprune.selectors.preset import recommended
from otprune.selectors.random import RandomPrune
from otprune.selectors.results import Reduction, Selection
from otprune.selectors.transport import TransportPrune

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
    "by_name",
    "check_selector",
    "recommended",
]
