"""Whether two answers are the same."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

Match = Literal["exact", "contains"]
MATCHES: tuple[Match, ...] = ("exact", "contains")
_ARTICLES = {"a", "an", "the"}


def plain(answer: str) -> str:
    """An answer without case, articles in front of a word, marks around words and doubled blanks.

    Marks inside words and the signs of numbers stay: 3.5 is not 35, and -3 is not 3. The last word
    stays even if it looks like an article, as in "the answer is A".
    """
    text = unicodedata.normalize("NFKC", answer).casefold()
    words = [bare for word in text.split() if (bare := _bare(word))]
    kept = [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]
    return " ".join(kept) or " ".join(text.split())


def _bare(word: str) -> str:
    """A word without the marks around it, but with a number's sign, currency and per cent."""
    found = re.search(r"[-+]?[$€£]?\.?\d.*|\w.*", word)
    return re.sub(r"[^\w%]+$", "", found[0]) if found else ""


def same(answer: str, other: str) -> bool:
    """Whether two answers differ in nothing but what `plain` leaves out."""
    return plain(answer) == plain(other)


def right(answer: str, known: Iterable[str], match: Match) -> bool:
    """Whether an answer is one of the known ones, or ("contains") has the words of one in a row."""
    said = plain(answer)
    if match == "exact":
        return any(said == plain(one) for one in known)
    return any(f" {plain(one)} " in f" {said} " for one in known)
