"""Settings of a whole engine and of single requests, read from plain dictionaries and checked.

Settings of an engine come as `--hf-overrides '{"otprune": {"keep": 0.1}}'`, the one channel that
reaches the processor and every worker. A request may change some of them with
`mm_processor_kwargs={"otprune": {...}}`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from otprune.engines.vllm.rows import method_text
from otprune.errors import OTPruneError, UnsupportedError
from otprune.measures.mass import Mass
from otprune.selectors import Selector, by_name
from otprune.selectors.gate import check_cues
from otprune.selectors.named import RECOMMENDED, every_setting, settings_of

KEY = "otprune"
Positions = Literal["auto", "preserved", "compact"]
Untested = Literal["refuse", "unpruned"]

DEFAULT_METHOD = "otprune"
PER_REQUEST = ("keep", "method", "merge")  # and the method's own settings
PER_ENGINE = ("positions", "untested_vllm")


@dataclass(frozen=True)
class Settings:
    """How images and videos are pruned.

    selector: the method with its settings; `keep` is a ratio or a number of tokens, no rule.
    merge: kept tokens become the mean of the tokens that they stand for.
    mass, alpha: how much a kept token counts in attention, as for `otprune.prune`.
    positions: "preserved" (M-RoPE models alone), "compact", or "auto" for what suits the model.
    untested_vllm: what to do under a vLLM that otprune does not know, "refuse" or "unpruned".
    values: the dictionary that all of this was read from.
    """

    selector: Selector
    merge: bool
    mass: Mass
    alpha: float
    positions: Positions
    untested_vllm: Untested
    values: Mapping[str, Any]

    @property
    def method(self) -> str:
        """The name that was asked for: a method, or "recommended"."""
        return str(self.values.get("method", DEFAULT_METHOD))


def engine_settings(given: object) -> Settings:
    """Settings of a whole engine, from the value of `otprune` in --hf-overrides.

    Raises:
        KeepError: `keep` is missing, or is neither a ratio nor a number.
        UnsupportedError: what vLLM does not allow: a `keep` that depends on the features, a mass,
            a selection inside the encoder, a selector that needs a GPU where the settings are
            checked.
        OTPruneError: an unknown name or a wrong value.
    """
    read = _read(given, (*PER_REQUEST, *PER_ENGINE), "--hf-overrides")
    if "keep" not in read:
        raise OTPruneError(
            'otprune in --hf-overrides has no "keep": give a ratio, e.g. {"otprune": {"keep": '
            "0.1}}; 1.0 keeps everything and lets single requests ask for less"
        )
    return _settings(read)


def request_settings(engine: Settings, given: object) -> Settings:
    """Settings of one request: `mm_processor_kwargs["otprune"]` on top of the engine's.

    A request that names another method starts from that method's defaults: the engine's settings of
    its own method do not apply.

    Raises: as `engine_settings`; also for a setting that is the same for a whole engine.
    """
    read = _read(given, PER_REQUEST, "mm_processor_kwargs")
    values = dict(engine.values)
    if read.get("method", engine.method) != engine.method:
        dropped = set(settings_of(engine.method))
        if read["method"] == RECOMMENDED:
            dropped.add("merge")
        values = {name: value for name, value in values.items() if name not in dropped}
    return _settings(values | read)


def fingerprint(settings: Settings) -> str:
    """What an image's features depend on besides the image, for the identity of cached items."""
    method = method_text(settings.selector, settings.merge, settings.mass, settings.alpha)
    return f"otprune keep={settings.selector.keep!r} positions={settings.positions} {method}"


def _read(given: object, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise OTPruneError(
            f'otprune in {where} is {given!r}: expected a dictionary such as {{"keep": 0.1}}'
        )
    read = dict(given)
    for name in ("mass", "alpha", "distance"):
        if read.pop(name, None) not in (None, "none", False):
            raise UnsupportedError(
                f"{name}={given[name]!r}: vLLM's attention takes no weight per token, leave it out"
            )
    for name in ("encoder", "encoder_keep", "encoder_after"):
        if read.pop(name, None) is not None:
            raise UnsupportedError(
                f"{name}={given[name]!r}: otprune does not reach the layers of vLLM's vision "
                "encoders, leave it out; in transformers it does (otprune.EncoderStage)"
            )
    known = (*names, *every_setting())
    unknown = [repr(name) for name in read if name not in known]
    if unknown:
        raise OTPruneError(
            f"otprune in {where} has {', '.join(unknown)}: expected only {', '.join(known)}"
        )
    return read


def _settings(values: Mapping[str, Any]) -> Settings:
    rest = dict(values)
    positions, untested = rest.pop("positions", "auto"), rest.pop("untested_vllm", "refuse")
    _check_choice("positions", positions, get_args(Positions))
    _check_choice("untested_vllm", untested, get_args(Untested))
    made = by_name(rest.pop("method", DEFAULT_METHOD), **rest)
    selector = made["selector"]
    check_cues(selector, [], "by the engine for vLLM")
    if not isinstance(selector.keep, (int, float)):
        raise UnsupportedError(
            f"keep={values['keep']!r}: vLLM must know the number of tokens before any feature "
            "exists, give a ratio in (0, 1] as a float, or a number of tokens >= 1 as an int"
        )
    _check_runs(replace(selector, keep=1))
    return Settings(selector, made["merge"], "none", 1.0, positions, untested, values)


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value is choice or value == choice for choice in allowed):
        raise OTPruneError(f"{name}={value!r}: expected one of {', '.join(map(repr, allowed))}")


@functools.lru_cache(maxsize=64)
def _check_runs(selector: Selector) -> None:
    """Select once from a few tokens: an error in a worker would stop the engine.

    Raises:
        UnsupportedError: the selector does not run on a CPU, where settings are checked.
    """
    try:
        selector.select(torch.eye(3))
    except OTPruneError as cause:
        raise UnsupportedError(
            f"{selector} failed where vLLM checks settings, which is on the CPU: {cause}"
        ) from cause
