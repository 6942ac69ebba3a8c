"""What a visitor chose, as arguments of the library."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from otprune.engines.common.stage import EncoderStage
from otprune.errors import KeepError, OTPruneError
from otprune.measures.mass import Mass
from otprune.selectors.named import RECOMMENDED, by_name, settings_of
from otprune.selectors.preset import Pruning
from otprune.selectors.registry import METHODS


@dataclass(frozen=True)
class Wanted:
    """A visitor's settings.

    Attributes:
        method: a key of `METHODS`, or "recommended".
        keep: share of the visual tokens that stay, in (0, 1].
        merge, mass: as for `otprune.prune`.
        encoder_keep: share that stays inside the vision encoder, in (0, 1]; 1 is no selection
            there.
        question: share of the question in the choice, in [0, 1], for methods that have it
            (`hears`).
    """

    method: str = "otprune"
    keep: float = 0.1
    merge: bool = False
    mass: Mass = "none"
    encoder_keep: float = 1.0
    question: float = 0.0

    def __post_init__(self) -> None:
        for name in ("keep", "encoder_keep"):
            object.__setattr__(self, name, _share(name, getattr(self, name)))

    def pruning(self) -> Pruning:
        """The arguments of `otprune.prune`.

        Raises:
            OTPruneError: no such method, or settings that do not go together.
        """
        own: dict[str, Any] = {"question": self.question} if self.question else {}
        return by_name(
            self.method,
            self.keep,
            merge=self.merge or None,
            mass=None if self.mass == "none" else self.mass,
            **own,
        )

    def stage(self) -> EncoderStage | None:
        """The selection inside the encoder; None without one."""
        return None if self.encoder_keep == 1 else EncoderStage(self.encoder_keep)

    def keeping(self, keep: float) -> Wanted:
        """The same with another keep."""
        return replace(self, keep=keep)

    def by(self, method: str) -> Wanted:
        """The same with another method, without what that does not take."""
        settled = method == RECOMMENDED
        return replace(
            self,
            method=method,
            merge=self.merge and not settled,
            mass="none" if settled else self.mass,
            question=self.question if hears(method) else 0.0,
        )


def hears(method: str) -> bool:
    """Whether a method takes a share of the question."""
    return method in (*METHODS, RECOMMENDED) and "question" in settings_of(method)


def summaries() -> dict[str, str]:
    """Every method with its summary, the preset first."""
    preset = "the preset: simplex volume, merged, with mass and distance (docs/mass.md)"
    return {RECOMMENDED: preset} | {name: method.summary for name, method in METHODS.items()}


def _share(name: str, value: object) -> float:
    """A slider's value as a ratio: it is a whole number at the slider's end."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise KeepError(f"{name}={value!r}: expected a ratio in (0, 1]")
    return float(value)


def check_methods(methods: list[str], most: int) -> None:
    """Refuse a comparison of no method or of more than `most`.

    Raises:
        OTPruneError: says how many.
    """
    if not 1 <= len(methods) <= most:
        raise OTPruneError(f"{len(methods)} methods to compare: choose from 1 to {most}")
