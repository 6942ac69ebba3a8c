"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes."""

from __future__ import annotations

import functools
import logging
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

    if tested(__version__) or compared(__version__):
        for architecture in FAMILIES:
            ModelRegistry.register_model(
                architecture, f"otprune.engines.vllm.models:{architecture}"
            )
    _check_configurations(VllmConfig, __version__)


def _check_configurations(config_class: Any, version: str) -> None:
    from otprune.engines.vllm.checks import check, check_untested

    post_init = config_class.__post_init__
    if hasattr(post_init, "otprune"):
        return
    wanted = ".".join(map(str, TESTED))

    @functools.wraps(post_init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if tested(version):
            check(self)
        elif compared(version):
            check(
                self,
                f"vLLM {version}: otprune was tested with {wanted}.x; the sources of this release "
                "were compared with it, nothing was run",
            )
        else:
            check_untested(self, f"vLLM {version}: otprune was tested with {wanted}.x")
        post_init(self, *args, **kwargs)

    checked.otprune = True  # type: ignore[attr-defined]
    config_class.__post_init__ = checked
