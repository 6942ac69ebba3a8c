"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.private import TESTED, compared, tested

logger = logging.getLogger("vllm.otprune")


def register() -> None:
    """Register the pruning classes in place of vLLM's own. May be called twice; imports little.

    Under a vLLM outside the tested range nothing is registered, and a configuration that asks for
    pruning is refused, unless it has `"untested_vllm": "unpruned"`. A release whose sources were
    compared with the tested one's prunes, with a warning.
    """
    from vllm import ModelRegistry, __version__
    from vllm.config import VllmConfig

    from otprune.engines.vllm import agreement

    if tested(__version__) or compared(__version__):
        agreement.install(imports=False)
        for architecture in FAMILIES:
            ModelRegistry.register_model(
                architecture, f"otprune.engines.vllm.models:{architecture}"
            )
    _check_configurations(VllmConfig, __version__, lambda: agreement.install(imports=True))


def _check_configurations(config_class: Any, version: str, guard: Callable[[], None]) -> None:
    """Check every configuration that is made; `guard` is called where one is to prune."""
    from otprune.engines.vllm.checks import check, check_untested, pruned

    post_init = config_class.__post_init__
    if hasattr(post_init, "otprune"):
        return
    reason = f"vLLM {version}: otprune was tested with {'.'.join(map(str, TESTED))}.x"
    caution = None
    if compared(version):
        caution = f"{reason}; the sources of this release were compared with it, nothing was run"

    @functools.wraps(post_init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if tested(version) or compared(version):
            check(self, caution)
            if pruned(self) is not None:
                guard()
        else:
            check_untested(self, reason)
        post_init(self, *args, **kwargs)

    checked.otprune = True  # type: ignore[attr-defined]
    config_class.__post_init__ = checked
