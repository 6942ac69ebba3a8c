"""Fixtures of this folder."""

from tests.cli.conftest import refused, run
from tests.untrained import checkpoint, embedded, tiny

__all__ = ["checkpoint", "embedded", "refused", "run", "tiny"]
