"""Checks of the words of `otprune ask` before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence

from otprune.errors import OTPruneError

USAGE = 'otprune ask PHOTO... "QUESTION" (see otprune ask --help)'
# Of files and of URLs; known here so that a mistake is told before Pillow is imported.
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")


def split(photos: Sequence[str], question: str | None) -> tuple[list[str], str]:
    """The photographs, and the question after them.

    Raises:
        OTPruneError: one of the two is missing, or they are in the wrong order.
    """
    if question is None:
        raise OTPruneError(f"nothing to ask: {USAGE}")
    if _is_photo(question):
        others = [word for word in photos if not _is_photo(word)]
        if others:
            raise OTPruneError(f"the question comes last, and {question} is a photograph: {USAGE}")
        raise OTPruneError(f"the question is missing after {question}: {USAGE}")
    if not photos:
        raise OTPruneError(f"no photograph to ask about: {USAGE}")
    return list(photos), question


def _is_photo(word: str) -> bool:
    if word.lower().startswith(("http://", "https://")) and len(word.split()) == 1:
        return True
    return word == "-" or word.lower().endswith(IMAGES) or os.path.exists(word)
