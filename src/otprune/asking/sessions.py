"""Sessions that watch a stream, as the command line and the page open them."""

from __future__ import annotations

from typing import Any

from otprune.asking.models import Loaded
from otprune.engines.transformers.watching.session import watch
from otprune.selectors import Selector


def session_of(
    loaded: Loaded, selector: Any, memory: int | None, forget: Any, unchanged: float
) -> watch:
    """The session that the options ask for; its default memory for the embedded model.

    That model was trained on single images. With tokens of one frame at a time it answers about
    that frame, and with those of several it mixes them up (docs/command_line.md has the figures).

    Raises:
        OTPruneError, UnsupportedError: as `otprune.watch`.
    """
    if memory is None and loaded.embedded and isinstance(selector, Selector):
        memory = int(selector.keep)  # type: ignore[arg-type]
    return watch(
        loaded.model, loaded.processor, selector, memory=memory, forget=forget, unchanged=unchanged
    )
