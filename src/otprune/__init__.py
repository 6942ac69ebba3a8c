"""Visual token pruning for multimodal language models by optimal transport."""

from __future__ import annotations

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from otprune.budget import count
from otprune.errors import (
    KeepError,
    MissingDependencyError,
    OTPruneError,
    TokenError,
    UnsupportedError,
    WeightError,
)
from otprune.flops import kv_cache_bytes, prefill_flops
from otprune.objectives.distances import exact_w2, free_mass_w2, gaussian_w2
from otprune.selectors import (
    METHODS,
    DivPrune,
    DPPPrune,
    GridPrune,
    HerdingPrune,
    NormPrune,
    OTPrune,
    RandomPrune,
    Reduction,
    Selection,
    Selector,
    TransportPrune,
)

if TYPE_CHECKING:
    from otprune.engines.transformers import prune, prune_inputs

__version__ = _version("otprune")

__all__ = [
    "METHODS",
    "DPPPrune",
    "DivPrune",
    "GridPrune",
    "HerdingPrune",
    "KeepError",
    "MissingDependencyError",
    "NormPrune",
    "OTPrune",
    "OTPruneError",
    "RandomPrune",
    "Reduction",
    "Selection",
    "Selector",
    "TokenError",
    "TransportPrune",
    "UnsupportedError",
    "WeightError",
    "__version__",
    "count",
    "exact_w2",
    "free_mass_w2",
    "gaussian_w2",
    "kv_cache_bytes",
    "prefill_flops",
    "prune",
    "prune_inputs",
]


def __getattr__(name: str) -> Any:
    # The engine needs transformers, which the core does without.
    if name in ("prune", "prune_inputs"):
        try:
            from otprune.engines import transformers
        except ImportError as cause:
            raise MissingDependencyError(
                f"otprune.{name} needs transformers, which cannot be imported ({cause}): "
                "pip install 'otprune[transformers]'"
            ) from cause
        return getattr(transformers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
