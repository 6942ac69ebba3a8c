"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes."""

from __future__ import annotations

import functools
import logging
from typing import Any

from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.private import TESTED, tested

logger = logging.getLogger("vllm.otprune")


def register() -> None:
    """Register the pruning classes in place of vLLM's own. May be called twice; imports little.

    Under a vLLM outside the tested range nothing is registered, and a configuration that asks for
    pruning is refused, unless it has `"untested_vllm": "unpruned"`.
    """
    from vllm import ModelRegistry, __version__
    from vllm.config import VllmConfig

    known = tested(__version__)
    if known:
        for architecture in FAMILIES:
            ModelRegistry.register_model(
                architecture, f"otprune.engines.vllm.models:{architecture}"
            )
    _check_configurations(VllmConfig, None if known else __version__)


def _check_configurations(config_class: Any, untested: str | None) -> None:
    from otprune.engines.vllm.checks import check, check_untested

    post_init = config_class.__post_init__
    if hasattr(post_init, "otprune"):
        return

    @functools.wraps(post_init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if untested is None:
            check(self)
        else:
            wanted = ".".join(map(str, TESTED))
            check_untested(self, f"vLLM {untested}: otprune was tested with {wanted}.x")
        post_init(self, *args, **kwargs)

    checked.otprune = True  # type: ignore[attr-defined]
    config_class.__post_init__ = checked
