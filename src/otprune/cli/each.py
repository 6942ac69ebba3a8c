"""Running each step of a command on all photographs, without losing results to one error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from otprune.asking.failures import told
from otprune.errors import OTPruneError

if TYPE_CHECKING:
    from otprune.asking.images import Photo

T = TypeVar("T")


class Each:
    """The photographs of one command.

    Attributes:
        errors: each names its photograph; printed at the end.
        notes: other messages to print at the end.
    """

    def __init__(self, photos: Sequence[Photo], continue_on_error: bool) -> None:
        self.photos = photos
        self.errors: list[OTPruneError] = []
        self.notes: list[str] = []
        self._continue = continue_on_error
        self._failed: dict[int, OTPruneError] = {}

    def check(self, look: Callable[[Photo], object]) -> None:
        """Check every photograph before work starts on any of them.

        Raises:
            OTPruneError: a check failed; with `continue_on_error`, all of them failed.
        """
        for number in self._left():
            self._do(number, look)
            if self.errors and not self._continue:
                raise self.errors[0]
        if not self._left():
            raise OTPruneError("; ".join(map(str, self.errors)))

    def work(self, do: Callable[[Photo], T]) -> dict[int, T]:
        """Results by photograph number; stops at an error unless `continue_on_error`."""
        done: dict[int, T] = {}
        for number in self._left():
            made = self._do(number, do)
            if made is not None:
                done[number] = made
            elif not self._continue:
                break
        return done

    def entries(
        self, done: Mapping[int, T], entry: Callable[[T], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """For JSON, in the order of the photographs: the result of each, or its error."""
        out = []
        for number, photo in enumerate(self.photos):
            if number in done:
                out.append(entry(done[number]))
            elif number in self._failed:
                out.append({"image": photo.name, "error": str(self._failed[number])})
        return out

    def _left(self) -> list[int]:
        return [number for number in range(len(self.photos)) if number not in self._failed]

    def _do(self, number: int, do: Callable[[Photo], T]) -> T | None:
        photo = self.photos[number]
        try:
            return do(photo)
        except Exception as error:
            said, cause = told(error), error
        is_named = re.search(rf"(?<!\S){re.escape(photo.label)}(?![^\s:,])", said)
        named = OTPruneError(said if is_named else f"{photo.label}: {said}")
        named.__cause__ = cause
        self._failed[number] = named
        self.errors.append(named)
        return None
