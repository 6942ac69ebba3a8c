"""Whether two answers are the same."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

Match = Literal["exact", "contains"]
_ARTICLES = {"a": 2, "an": 1, "the": 1}  # letters that the next word has at least
_ALIKE = str.maketrans("\u2212\u2013\uff05", "--%")  # minus, en dash, full-width per cent
_STAYS = "-#%‰"  # at the end of a word
_SIGN = re.compile(r"-?\.?$")
_NUMBER = re.compile(r"\W*\d")


def plain(answer: str) -> str:
    """An answer without case, articles in front of a word, marks around words and doubled blanks.

    Marks inside words, symbols and the signs of numbers stay: 3.5 is not 35, -3 is not 3, 5 $ is
    not 5 €, and A+ is not A-. So does what only looks like an article: "A, B", "the answer is A".
    """
    # Not NFKC, which makes 102 of 10².
    text = unicodedata.normalize("NFC", answer).casefold().translate(_ALIKE)
    words = [(word, bare) for word in text.split() if (bare := _bare(word))]
    kept = [
        bare
        for (word, bare), (_, after) in zip(words, [*words, ("", "")][1:], strict=True)
        if not (word.endswith(bare) and len(after) >= _ARTICLES.get(bare, math.inf))
    ]
    return " ".join(kept) or " ".join(text.split())


def _bare(word: str) -> str:
    """A word without the punctuation around it, but with signs, per cent and symbols."""
    start, end = 0, len(word)
    while start < end and _is_mark(word[start]):
        start += 1
    while end > start and word[end - 1] not in _STAYS and _is_mark(word[end - 1]):
        end -= 1
    sign = _SIGN.search(word[:start])
    if sign and _NUMBER.match(word, start):
        start = sign.start()
    return word[start:end]


def _is_mark(x: str) -> bool:
    return x == "`" or unicodedata.category(x).startswith("P")


def same(answer: str, other: str) -> bool:
    """Whether two answers differ in nothing but what `plain` leaves out."""
    return plain(answer) == plain(other)


def right(answer: str, known: Iterable[str], match: Match) -> bool:
    """Whether an answer is one of the known ones, or ("contains") has the words of one in a row."""
    said = plain(answer)
    if match == "exact":
        return any(said == plain(one) for one in known)
    return any(f" {plain(one)} " in f" {said} " for one in known)
