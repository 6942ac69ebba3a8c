"""`METHODS`: every method by its short name, in the order of tables.

To add a method, add a file to this package and an import here. Every imported method is listed on
the command line, benchmarked and tested.
"""

# ruff: noqa: I001 - the order is that of tables

from __future__ import annotations

from otprune.selectors.base import Selector
from otprune.selectors.otprune import OTPrune as OTPrune
from otprune.selectors.transport import TransportPrune as TransportPrune
from otprune.selectors.herding import HerdingPrune as HerdingPrune
from otprune.selectors.divprune import DivPrune as DivPrune
from otprune.selectors.dpp import DPPPrune as DPPPrune
from otprune.selectors.simplex import SimplexPrune as SimplexPrune
from otprune.selectors.fastervlm import FasterVLM as FasterVLM
from otprune.selectors.vispruner import VisPruner as VisPruner
from otprune.selectors.visionzip import VisionZip as VisionZip
from otprune.selectors.prumerge import PruMerge as PruMerge
from otprune.selectors.prumerge import PruMergePlus as PruMergePlus
from otprune.selectors.holov import HoloV as HoloV
from otprune.selectors.scope import SCOPE as SCOPE
from otprune.selectors.cdpruner import CDPruner as CDPruner
from otprune.selectors.mmtok import MMTok as MMTok
from otprune.selectors.norm import NormPrune as NormPrune
from otprune.selectors.grid import GridPrune as GridPrune
from otprune.selectors.random import RandomPrune as RandomPrune

METHODS: dict[str, type[Selector]] = {
    found.name: found
    for found in list(vars().values())
    if isinstance(found, type) and issubclass(found, Selector) and found is not Selector
}
