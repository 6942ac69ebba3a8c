"""Errors of work on one photograph that are told in one line, so that the next one can follow."""

from __future__ import annotations

from otprune.errors import OTPruneError

OUT_OF_MEMORY = (
    "the GPU has not enough memory for this model and image: try --dtype bfloat16, --device cpu or "
    "a smaller model"
)


def told(error: Exception) -> str:
    """What to tell about an error; any that is neither ours nor a full GPU's is raised again."""
    if isinstance(error, OTPruneError):
        return str(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch here
        return OUT_OF_MEMORY
    raise error
