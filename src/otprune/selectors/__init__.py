"""The methods, one a file: `registry` lists them, `named` creates them from plain values."""

from __future__ import annotations

from otprune.selectors.base import Selector as Selector
from otprune.selectors.check import check_selector as check_selector
from otprune.selectors.cues import Cues as Cues
from otprune.selectors.named import by_name as by_name
from otprune.selectors.preset import recommended as recommended
from otprune.selectors.registry import *  # noqa: F403 - METHODS, and the class of every method
from otprune.selectors.results import Reduction as Reduction
from otprune.selectors.results import Selection as Selection
