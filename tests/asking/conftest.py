"""Fixtures of this folder."""

from tests.untrained import tiny

__all__ = ["tiny"]
