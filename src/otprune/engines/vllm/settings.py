"""What a user may ask for, whole-engine and per request: read from plain dictionaries, checked.

Whole-engine settings come as `--hf-overrides '{"otprune": {"keep": 0.1}}'`, the one channel that
reaches the processor and every worker; a request may carry `mm_processor_kwargs={"otprune": {...}}`
with what shall be different for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from otprune.errors import OTPruneError, UnsupportedError
from otprune.selectors import METHODS, Selector

KEY = "otprune"
Positions = Literal["preserved", "compact"]
Untested = Literal["refuse", "unpruned"]

METHOD_NAMES = tuple(sorted(METHODS))
PER_REQUEST = ("keep", "method", "merge")


@dataclass(frozen=True)
class Settings:
    """How images and videos are pruned.

    keep: a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int.
    method: a name of `otprune.METHODS`.
    merge: kept tokens become the mean of the tokens that they stand for.
    positions: "preserved" (M-RoPE models alone) or "compact"; None is what suits the model.
    untested_vllm: what to do under a vLLM outside the tested range, "refuse" or "unpruned".
    """

    keep: float | int
    method: str = "otprune"
    merge: bool = False
    positions: Positions | None = None
    untested_vllm: Untested = "refuse"

    def selector(self) -> Selector:
        """The method at this ratio."""
        return METHODS[self.method](keep=self.keep)


def engine_settings(given: object) -> Settings:
    """Settings of a whole engine, from the value of `otprune` in --hf-overrides.

    Raises:
        KeepError: `keep` is missing or no ratio and no number.
        UnsupportedError: something that vLLM's fixed placeholders do not allow.
        OTPruneError: an unknown name or value.
    """
    names = (*PER_REQUEST, "positions", "untested_vllm")
    read = _read(given, names, "--hf-overrides")
    if "keep" not in read:
        raise OTPruneError(
            'otprune in --hf-overrides has no "keep": give a ratio, e.g. {"otprune": {"keep": '
            "0.1}}; 1.0 keeps everything and lets single requests ask for less"
        )
    return _checked(Settings(**read))


def request_settings(engine: Settings, given: object) -> Settings:
    """What one request asked for in `mm_processor_kwargs["otprune"]`, on top of the engine's.

    Raises: as `engine_settings`; also for what is the same for a whole engine.
    """
    read = _read(given, PER_REQUEST, "mm_processor_kwargs")
    return _checked(replace(engine, **read))


def fingerprint(settings: Settings) -> str:
    """What an image's features depend on besides the image, for the identity of cached items."""
    part = {name: value for name, value in asdict(settings).items() if name != "untested_vllm"}
    return f"otprune {part!r}"


def _read(given: object, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise OTPruneError(
            f'otprune in {where} is {given!r}: expected a dictionary such as {{"keep": 0.1}}'
        )
    read = dict(given)
    if read.pop("mass", None) not in (None, "none"):
        raise UnsupportedError(
            f"mass={given['mass']!r}: vLLM's attention takes no weight a token, leave it out"
        )
    unknown = sorted(set(read) - set(names))
    if unknown:
        raise OTPruneError(
            f"otprune in {where} has {', '.join(map(repr, unknown))}: expected only "
            f"{', '.join(names)}"
        )
    return read


def _checked(settings: Settings) -> Settings:
    if isinstance(settings.keep, str):
        raise UnsupportedError(
            f"keep={settings.keep!r}: vLLM must know the number of tokens before any feature "
            "exists, give a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int"
        )
    choices: dict[str, tuple[object, ...]] = {
        "method": METHOD_NAMES,
        "merge": (False, True),
        "positions": (None, *get_args(Positions)),
        "untested_vllm": get_args(Untested),
    }
    for name, allowed in choices.items():
        value = getattr(settings, name)
        if not any(value is choice or value == choice for choice in allowed) or (
            name == "merge" and not isinstance(value, bool)
        ):
            raise OTPruneError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")
    settings.selector()  # raises KeepError
    return settings
