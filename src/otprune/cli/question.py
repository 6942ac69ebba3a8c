"""Checks of the words of `otprune ask` before a model is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from difflib import SequenceMatcher

from otprune import demo
from otprune.errors import OTPruneError

REAL_MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"


USAGE = 'otprune ask PHOTO... "QUESTION" (see otprune ask --help)'
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
    return word == "-" or word.lower().endswith(IMAGES) or os.path.isfile(word)


def check_question(question: str, embedded: bool, usage: str = 'ask PHOTO... "QUESTION"') -> None:
    """Refuse an empty question, and one that the embedded model has no words for."""
    if not question.strip():
        raise OTPruneError(f"the question is empty: otprune {usage}")
    if not embedded:
        return
    unknown = demo.unknown_words(question)
    if unknown:
        words = ", ".join(map(repr, unknown))
        near = [
            known for word in unknown for known in demo.suggestions(word)[:1] if _alike(word, known)
        ]
        hint = f" (did you mean {', '.join(map(repr, near))}?)" if near else ""
        raise OTPruneError(
            f"the embedded model does not know {words}{hint}: `otprune ask --demo-help` lists what "
            f"it understands; for anything else use a real model, like --model {REAL_MODEL}"
        )


def _alike(word: str, known: str) -> bool:
    """Whether `word` is likely a typing error for `known`."""
    return len(word) > 3 and SequenceMatcher(None, word, known).ratio() >= 0.8
