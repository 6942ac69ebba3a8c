"""Checks of a question before a model is asked."""

from __future__ import annotations

from difflib import SequenceMatcher

from otprune import demo
from otprune.errors import OTPruneError

REAL_MODEL = "HuggingFaceTB/SmolVLM-256M-Instruct"


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
