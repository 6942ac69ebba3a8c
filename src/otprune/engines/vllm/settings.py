"""Settings of a whole engine and of single requests, read from plain dictionaries and checked.

Settings of an engine come as `--hf-overrides '{"otprune": {"keep": 0.1}}'`, the one channel that
reaches the processor and every worker. A request may change some of them with
`mm_processor_kwargs={"otprune": {...}}`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from numbers import Real
from typing import Any, Literal, get_args

import torch

from otprune.engines.common.stage import EncoderStage, stage_of
from otprune.engines.vllm.rows import Asked, method_text, stage_text
from otprune.errors import CueError, KeepError, OTPruneError, UnsupportedError
from otprune.keep import Keep
from otprune.measures.mass import Mass
from otprune.selectors import Cues, Selector, by_name
from otprune.selectors.gate import check_cues
from otprune.selectors.named import RECOMMENDED, every_setting, settings_of

KEY = "otprune"
STAGE = "otprune_stage"  # a field of an image's item
Positions = Literal["auto", "preserved", "compact"]
Untested = Literal["refuse", "unpruned"]

DEFAULT_METHOD = "otprune"
MODALITIES = ("image", "video")
# Names that other projects have for the `keep` of one modality, and whether it is what is dropped.
SHARES = {
    "image_pruning_rate": ("image", True),
    "video_pruning_rate": ("video", True),
    "video_retention_ratio": ("video", False),
}
ENCODER = ("encoder_keep", "encoder_after")
# And the method's own settings.
PER_REQUEST = ("keep", *SHARES, "method", "merge", "mass", "alpha", "text", *ENCODER)
PER_ENGINE = ("positions", "allow_mass", "untested_vllm")


@dataclass(frozen=True)
class Settings:
    """How images and videos are pruned.

    selector: the method with its settings, for images; `keep` is a ratio or a number of tokens, no
        rule.
    video_keep: the same of videos.
    merge: kept tokens become the mean of the tokens that they stand for.
    mass, alpha: how much a kept token counts in attention, as for `otprune.prune`.
    stage: selection inside the vision encoder, None for none.
    text: what is asked, as text or as token ids, for methods that hear the question; None for the
        text of the prompt.
    positions: "preserved" (M-RoPE models alone), "compact", or "auto" for what suits the model.
    weighs: the engine can give tokens a mass, for which its heads are wider: its own settings have
        one, or "allow_mass".
    untested_vllm: what to do under a vLLM that otprune does not know, "refuse" or "unpruned".
    values: the dictionary that all of this was read from, with `keep` for images and `video_keep`.
    """

    selector: Selector
    video_keep: float | int
    merge: bool
    mass: Mass
    alpha: float
    stage: EncoderStage | None
    text: str | tuple[int, ...] | None
    positions: Positions
    weighs: bool
    untested_vllm: Untested
    values: Mapping[str, Any] = field(repr=False)

    @property
    def method(self) -> str:
        """The name that was asked for: a method, or "recommended"."""
        return str(self.values.get("method", DEFAULT_METHOD))

    def selector_of(self, modality: str) -> Selector:
        """The selector with the `keep` of a modality, "image" or "video"."""
        keep = self.video_keep if modality == "video" else self.selector.keep
        return replace(self.selector, keep=keep)

    def asked_of(self, modality: str, question: tuple[int, ...] | None = None) -> Asked:
        """What is asked of an image or video; `question` as in `Asked`."""
        selector = self.selector_of(modality)
        return Asked(selector, self.merge, self.mass, self.alpha, self.stage, question)

    def hears(self, modality: str) -> bool:
        """Whether what is kept of an image or video depends on the question."""
        selector = self.selector_of(modality)
        keeps_all = isinstance(selector.keep, float) and selector.keep == 1.0
        return "question" in selector.uses and not keeps_all


def engine_settings(given: object) -> Settings:
    """Settings of a whole engine, from the value of `otprune` in --hf-overrides.

    Raises:
        KeepError: `keep` is neither a ratio nor a number, or a rate is no share.
        UnsupportedError: what vLLM does not allow: a `keep` that depends on the features, a
            distance term, a selector that needs a GPU where the settings are checked.
        OTPruneError: an unknown name, a wrong value, or how much is kept is missing or said twice.
    """
    read = _read(given, (*PER_REQUEST, *PER_ENGINE), "--hf-overrides")
    if not {"keep", "video_keep"} & set(read):
        raise OTPruneError(
            'otprune in --hf-overrides has no "keep": give a ratio, e.g. {"otprune": {"keep": '
            "0.1}}; 1.0 keeps everything and lets single requests ask for less. Or give "
            f"{', '.join(SHARES)}"
        )
    return _settings({"keep": 1.0, "video_keep": 1.0} | read)


def request_settings(engine: Settings, given: object) -> Settings:
    """Settings of one request: `mm_processor_kwargs["otprune"]` on top of the engine's.

    A request that speaks of one modality leaves the engine's `keep` of the other. A request that
    names another method starts from that method's defaults: the engine's settings of its own method
    do not apply.

    Raises: as `engine_settings`; also for a setting that is the same for a whole engine, and for a
        mass in an engine whose settings have none and do not allow it.
    """
    read = _read(given, PER_REQUEST, "mm_processor_kwargs")
    values = dict(engine.values)
    if read.get("method", engine.method) != engine.method:
        dropped = {*settings_of(engine.method), "text"}
        if RECOMMENDED in (read["method"], engine.method):  # which settles these itself
            dropped |= {"merge", "mass", "alpha"}
        values = {name: value for name, value in values.items() if name not in dropped}
    if "mass" in read and read["mass"] in (None, "none"):
        values.pop("alpha", None)
    made = _settings(values | read)
    if made.mass != "none" and not engine.weighs:
        source = (
            f"mass={made.mass!r}" if "mass" in read else f"method={made.method!r} with its mass"
        )
        raise UnsupportedError(
            f"{source}: this engine was started without mass. Start it with "
            '--hf-overrides \'{"otprune": {"keep": 0.1, "allow_mass": true}}\', or ask for '
            '"mass": "none"'
        )
    return replace(made, weighs=engine.weighs)


def fingerprint(settings: Settings, modality: str, question: tuple[int, ...] | None = None) -> str:
    """What an item's features depend on besides the item, for the identity of cached items.

    question: ids of what is asked; None where nothing depends on it.
    """
    asked = settings.asked_of(modality)
    engine = f"positions={settings.positions} weighs={settings.weighs}"
    said = f"otprune keep={asked.selector.keep!r} {engine} {method_text(asked)}"
    if asked.stage is not None:
        said += f" encoder={stage_text(asked.stage)}"
    return said if question is None else f"{said} question={list(question)}"


def _read(given: object, names: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise OTPruneError(
            f'otprune in {where} is {given!r}: expected a dictionary such as {{"keep": 0.1}}'
        )
    read = dict(given)
    if read.pop("distance", None) not in (None, False, "auto"):
        raise UnsupportedError(
            f"distance={given['distance']!r}: the term differs between queries, which vLLM's "
            "attention cannot take: leave it out"
        )
    if read.pop("encoder", None) is not None:
        raise UnsupportedError(
            f"encoder={given['encoder']!r}: settings are plain values here, give "
            '{"encoder_keep": 0.35, "encoder_after": 0.6}'
        )
    known = (*names, *every_setting())
    unknown = [repr(name) for name in read if name not in known]
    if unknown:
        raise OTPruneError(
            f"otprune in {where} has {', '.join(unknown)}: expected only {', '.join(known)}"
        )
    return _with_keeps(read)


def _with_keeps(read: dict[str, Any]) -> dict[str, Any]:
    """The same with `keep` for images and `video_keep`, of the modalities that are spoken of.

    Raises:
        KeepError: a rate is no share.
        OTPruneError: how much is kept of a modality is said twice.
    """
    read = dict(read)
    named: dict[str, str] = {}
    made: dict[str, Any] = {}
    for name, (modality, drops) in SHARES.items():
        if name not in read:
            continue
        if modality in named:
            raise OTPruneError(f"{named[modality]} and {name} are two names of one thing: give one")
        named[modality] = name
        made[modality] = _kept(name, read.pop(name), drops)
    if "keep" in read:
        keep = read.pop("keep")
        if set(named) == set(MODALITIES):
            raise OTPruneError(
                f"keep={keep!r} beside {' and '.join(named.values())} contradicts them: give keep, "
                "or a rate for each of images and videos, or keep and the rate of one of them"
            )
        made = dict.fromkeys(MODALITIES, keep) | made
    keys = {"image": "keep", "video": "video_keep"}
    return read | {keys[modality]: keep for modality, keep in made.items()}


def _kept(name: str, share: Any, drops: bool) -> float:
    """A share as the ratio that is kept. Decimal, since 1 - 0.9 in binary is not 0.1."""
    where, limits = ("[0, 1)", "0 drops nothing") if drops else ("(0, 1]", "1 keeps everything")
    is_number = isinstance(share, Real) and not isinstance(share, bool)
    if not is_number or not (0 <= share < 1 if drops else 0 < share <= 1):
        raise KeepError(f"{name}={share!r}: expected a share in {where}, where {limits}")
    ratio = float(share)
    return float(1 - Decimal(repr(ratio))) if drops else ratio


def _settings(values: Mapping[str, Any]) -> Settings:
    rest = dict(values)
    positions, untested = rest.pop("positions", "auto"), rest.pop("untested_vllm", "refuse")
    _check_choice("positions", positions, get_args(Positions))
    _check_choice("untested_vllm", untested, get_args(Untested))
    video_keep = rest.pop("video_keep")
    stage = _stage(*(rest.pop(name, None) for name in ENCODER))
    text = _text(rest.pop("text", None))
    allowed = rest.pop("allow_mass", False)
    if not isinstance(allowed, bool):
        raise OTPruneError(f"allow_mass={allowed!r}: expected true or false")
    method = rest.pop("method", DEFAULT_METHOD)
    if method == RECOMMENDED and rest.get("mass") == "none":
        made = by_name(method, **{name: x for name, x in rest.items() if name != "mass"})
        made |= {"mass": "none", "alpha": 1.0}
    else:
        made = by_name(method, **rest)
    selector = made["selector"]
    heard = text is not None or "question" in selector.uses
    check_cues(selector, ["question"] if heard else [], "by the engine for vLLM")
    _settled(selector.keep)
    of_videos = _settled(replace(selector, keep=video_keep).keep)
    _check_runs(replace(selector, keep=1))
    return Settings(
        selector=selector,
        video_keep=of_videos,
        merge=made["merge"],
        mass=made["mass"],
        alpha=made["alpha"],
        stage=stage,
        text=text,
        positions=positions,
        weighs=allowed or made["mass"] != "none",
        untested_vllm=untested,
        values=values,
    )


def _text(given: Any) -> str | tuple[int, ...] | None:
    """What is asked: text, or its token ids.

    Raises:
        CueError: it is neither.
    """
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, (list, tuple)) or any(
        isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in given
    ):
        raise CueError(f"text={given!r}: expected a string, or a list of token ids")
    return tuple(given)


def _stage(keep: Any, after: Any) -> EncoderStage | None:
    """The stage, None where it would keep everything."""
    stage = stage_of(keep, after)
    keeps_all = stage is not None and isinstance(stage.keep, float) and stage.keep == 1.0
    return None if keeps_all else stage


def _settled(keep: Keep) -> float | int:
    """A `keep` that is no rule.

    Raises:
        UnsupportedError: it is one.
    """
    if not isinstance(keep, (int, float)):
        raise UnsupportedError(
            f"keep={keep!r}: vLLM must know the number of tokens before any feature exists, give a "
            "ratio in (0, 1] as a float, or a number of tokens >= 1 as an int"
        )
    return keep


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
        asked = torch.ones(1, 3) if "question" in selector.uses else None
        selector.select(torch.eye(3), cues=Cues(question=asked))
    except OTPruneError as cause:
        raise UnsupportedError(
            f"{selector} failed where vLLM checks settings, which is on the CPU: {cause}"
        ) from cause
