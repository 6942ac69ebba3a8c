"""Visual token pruning for multimodal language models by optimal transport.

Names are imported when they are first used: `import otprune` itself takes milliseconds, and only
what is under `otprune.engines.transformers` (`prune`, `prune_inputs`, ...) needs transformers.
Where that cannot be imported those names are there all the same, so that `hasattr` and
`from otprune import *` say what otprune has; calling one raises `MissingDependencyError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otprune.engines.common.layer_stage import LayerStage
    from otprune.engines.common.stage import EncoderStage
    from otprune.engines.transformers.encoded import VisualTokens, visual_tokens
    from otprune.engines.transformers.inputs import prune_inputs
    from otprune.engines.transformers.prune import disable, enable, prune
    from otprune.engines.transformers.settings import Settings
    from otprune.engines.transformers.watching.session import watch
    from otprune.errors import (
        CueError,
        FrameError,
        KeepError,
        MissingDependencyError,
        OTPruneError,
        SelectorError,
        TokenError,
        UnsupportedError,
        WeightError,
    )
    from otprune.flops import kv_cache_bytes, prefill_flops
    from otprune.keep import Auto, Budget, count
    from otprune.measures.distances import exact_w2, free_mass_w2, gaussian_w2
    from otprune.planning import Plan, Rates, plan
    from otprune.reading import frames
    from otprune.selectors import (
        METHODS,
        SCOPE,
        CDPruner,
        Cues,
        DivPrune,
        DPPPrune,
        FasterVLM,
        GridPrune,
        HerdingPrune,
        HoloV,
        MMTok,
        NormPrune,
        OTPrune,
        PruMerge,
        PruMergePlus,
        RandomPrune,
        Reduction,
        Selection,
        Selector,
        SimplexPrune,
        TransportPrune,
        VisionZip,
        VisPruner,
        by_name,
        recommended,
    )
    from otprune.streaming import (
        DTD,
        EVS,
        FixedCameraSelector,
        FrameSelector,
        StaticPatches,
        StreamSelector,
        UniformStream,
        VidCom2,
        select_video,
    )

    __version__: str

__all__ = [
    "DTD",
    "EVS",
    "METHODS",
    "SCOPE",
    "Auto",
    "Budget",
    "CDPruner",
    "CueError",
    "Cues",
    "DPPPrune",
    "DivPrune",
    "EncoderStage",
    "FasterVLM",
    "FixedCameraSelector",
    "FrameError",
    "FrameSelector",
    "GridPrune",
    "HerdingPrune",
    "HoloV",
    "KeepError",
    "LayerStage",
    "MMTok",
    "MissingDependencyError",
    "NormPrune",
    "OTPrune",
    "OTPruneError",
    "Plan",
    "PruMerge",
    "PruMergePlus",
    "RandomPrune",
    "Rates",
    "Reduction",
    "Selection",
    "Selector",
    "SelectorError",
    "Settings",
    "SimplexPrune",
    "StaticPatches",
    "StreamSelector",
    "TokenError",
    "TransportPrune",
    "UniformStream",
    "UnsupportedError",
    "VidCom2",
    "VisPruner",
    "VisionZip",
    "VisualTokens",
    "WeightError",
    "__version__",
    "by_name",
    "count",
    "disable",
    "enable",
    "exact_w2",
    "frames",
    "free_mass_w2",
    "gaussian_w2",
    "kv_cache_bytes",
    "plan",
    "prefill_flops",
    "prune",
    "prune_inputs",
    "recommended",
    "select_video",
    "visual_tokens",
    "watch",
]

_ERRORS = {name for name in __all__ if name.endswith("Error")}
_HOMES = {
    **dict.fromkeys(_ERRORS, "errors"),
    "Auto": "keep",
    "Budget": "keep",
    "count": "keep",
    "exact_w2": "measures.distances",
    "free_mass_w2": "measures.distances",
    "gaussian_w2": "measures.distances",
    "EncoderStage": "engines.common.stage",
    "LayerStage": "engines.common.layer_stage",
    **dict.fromkeys(
        (
            "DTD",
            "EVS",
            "FixedCameraSelector",
            "FrameSelector",
            "StaticPatches",
            "StreamSelector",
            "UniformStream",
            "VidCom2",
            "select_video",
        ),
        "streaming",
    ),
    "frames": "reading",
    **dict.fromkeys(("Plan", "Rates", "plan"), "planning"),
    "kv_cache_bytes": "flops",
    "prefill_flops": "flops",
    **dict.fromkeys(
        (
            "Settings",
            "VisualTokens",
            "disable",
            "enable",
            "prune",
            "prune_inputs",
            "visual_tokens",
            "watch",
        ),
        "engines.transformers",
    ),
}
_NEED_TRANSFORMERS = ("engines.transformers", "planning")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("otprune")
    # Classes of methods are listed by `otprune.selectors.registry` alone.
    if name not in __all__ and not name.endswith("Prune"):
        raise AttributeError(f"module 'otprune' has no attribute {name!r}")
    where = _HOMES.get(name, "selectors")
    try:
        home = import_module(f"otprune.{where}")
    except Exception as cause:
        message = _missing(name, cause) if where in _NEED_TRANSFORMERS else None
        if message is None:
            raise
        return _stand_in(name, message, cause)
    try:
        value = getattr(home, name)
    except AttributeError:
        raise AttributeError(f"module 'otprune' has no attribute {name!r}") from None
    globals()[name] = value
    return value


def _missing(name: str, cause: Exception) -> str | None:
    """What to install so that transformers can be imported; None if the fault is elsewhere."""
    from otprune.installed import broken_torchvision

    told = broken_torchvision(cause)
    if told is not None:
        return f"otprune.{name} cannot be used: {told}"
    if not isinstance(cause, ImportError):
        return None
    return (
        f"otprune.{name} needs transformers, which cannot be imported ({cause}): "
        "pip install 'otprune[transformers]'"
    )


def _stand_in(name: str, message: str, cause: Exception) -> Any:
    """Stands in for what cannot be imported, and says so when it is called."""

    def missing(*_: Any, **__: Any) -> Any:
        from otprune.errors import MissingDependencyError

        raise MissingDependencyError(message) from cause

    missing.__name__ = missing.__qualname__ = name
    missing.__doc__ = message
    return missing


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
