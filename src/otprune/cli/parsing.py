"""Options of a command line as arguments of the library."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from otprune import demo
from otprune.cli.options import Dtype, Encoder, LayerRank, Mass, Measure
from otprune.errors import KeepError, OTPruneError
from otprune.keep import Auto

if TYPE_CHECKING:
    from otprune.engines.common.layer_stage import LayerStage
    from otprune.engines.common.stage import EncoderStage
    from otprune.selectors.base import Selector
    from otprune.selectors.preset import Pruning


def parse_keep(
    text: str,
    target: float | None = None,
    measure: Measure | None = None,
    max_keep: str | None = None,
) -> float | int | Auto:
    """`--keep` for the library: a ratio if it has a point, else a number of tokens; or "auto".

    Raises:
        KeepError: it is none of these. The range of a number is checked by the selector.
    """
    if text == "auto":
        most = 0.5 if max_keep is None else _parse_number("--max-keep", max_keep, "16")
        return Auto(target, "distance" if measure is None else measure.value, most)
    given = {"--target": target, "--measure": measure, "--max-keep": max_keep}
    for name, value in given.items():
        if value is not None:
            raise KeepError(f"{name} belongs to --keep auto, and --keep is {text}")
    return _parse_number("--keep", text, "16, or auto")


def _parse_number(option: str, text: str, last: str) -> float | int:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise KeepError(
            f"{option} {text}: expected a ratio with a point, like 0.1, or a whole number, like "
            f"{last}"
        ) from None


def encoder_stage(keep: str | None, after: str | None) -> EncoderStage | None:
    """The stage that `--encoder-keep` and `--encoder-after` ask for; None without the first.

    Raises:
        KeepError, OTPruneError: an option is wrong, or the second is given alone.
    """
    if keep is None:
        if after is not None:
            raise OTPruneError(
                "--encoder-after belongs to --encoder-keep: give both, or leave it out"
            )
        return None
    ratio = _parse_number("--encoder-keep", keep, "200")
    share = None if after is None else _parse_number("--encoder-after", after, "12")
    from otprune.engines.common.stage import stage_of  # torch takes a second

    return stage_of(ratio, share)


def with_settings(own: dict[str, Any], given: list[str] | None) -> dict[str, Any]:
    """The settings of options of their own, and those that `--set NAME=VALUE` gives.

    Raises:
        OTPruneError: one has another form, or is given twice.
    """
    found = dict(own)
    for one in given or []:
        name, sign, value = (part.strip() for part in one.partition("="))
        if not (name and sign and value):
            raise OTPruneError(f"--set {one}: expected NAME=VALUE, such as --set damping=3")
        if found.get(name) is not None:
            raise OTPruneError(f"{name} is given twice: give it once")
        found[name] = value
    return found


def layer_stage(rank: LayerRank | None, after: str | None, keep: str | None) -> LayerStage | None:
    """The stage that `--layer-rank` and its options ask for; None without the first.

    Raises:
        KeepError, OTPruneError: an option is wrong, or is given without `--layer-rank`.
    """
    if rank is None:
        for name, text in (("--layer-after", after), ("--layer-keep", keep)):
            if text is not None:
                raise OTPruneError(f"{name} belongs to --layer-rank: give both, or leave it out")
        return None
    from otprune.engines.common.layer_stage import LayerStage  # torch takes a second

    several = (
        _parse_numbers("--layer-after", after, "2"),
        _parse_numbers("--layer-keep", keep, "64"),
    )
    try:
        return LayerStage(*several, rank.value)
    except OTPruneError as error:
        raise type(error)(f"--layer-rank: {error}") from None


def _parse_numbers(option: str, text: str | None, last: str) -> tuple[float | int, ...] | None:
    if text is None:
        return None
    return tuple(_parse_number(option, part, last) for part in text.split(","))


def pruning(
    method: str,
    keep: float | int | Auto,
    merge: bool = False,
    mass: Mass | None = None,
    alpha: float | None = None,
    distance: bool = False,
    settings: Mapping[str, Enum | str | int | None] | None = None,
) -> Pruning:
    """The arguments of `otprune.prune` that the options ask for; None is an option not given.

    Args:
        method: a name or the class of a user's own file.
        keep, merge, mass, alpha, distance: as for `otprune.prune`.
        settings: the method's own.

    Raises:
        OTPruneError: as `otprune.selectors.by_name`.
    """
    from otprune.selectors import by_name  # torch takes a second; --help needs none

    settings = settings or {}
    for name in settings:
        if name in inspect.signature(by_name).parameters:
            raise OTPruneError(f"--set {name}: this is no setting of a method, see --help")
    see_here(method)
    return by_name(
        method,
        keep,
        merge=merge or None,
        mass=None if mass is None else mass.value,
        alpha=alpha,
        distance=distance or None,
        own=True,
        **{name: plain(value) for name, value in settings.items()},
    )


def see_here(method: str) -> None:
    """Let a user's own method be imported from the current directory, as `python -m` does."""
    if ":" in method and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def check_alone(selector: Selector) -> None:
    """Raise UnsupportedError if a method needs more than the tokens of an image."""
    from otprune.selectors.gate import check_cues

    check_cues(selector, [], "by select, which has the tokens of an encoder alone (ask has more)")


def plain(value: Enum | str | int | None) -> object:
    """The value of an enum member; a text that is a number, True or False is converted."""
    if isinstance(value, Enum):
        return value.value
    if value in ("True", "False"):
        return value == "True"
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                return number(value)
    return value


def check_model(model: str | None, tokens: int | None, trust_remote_code: bool) -> None:
    """Refuse what belongs to another model than the one that is asked for.

    Raises:
        OTPruneError: names the option.
    """
    if trust_remote_code and model is None:
        raise OTPruneError("--trust-remote-code belongs to --model: the embedded model has no code")
    if tokens is None:
        return
    if model is not None:
        raise OTPruneError(f"--tokens {tokens} belongs to the embedded model: leave out --model")
    if tokens not in demo.FOLDERS:
        raise OTPruneError(f"--tokens {tokens}: expected {' or '.join(map(str, demo.FOLDERS))}")


def check_encoder(
    encoder: Encoder | None,
    model: str | None,
    tokens: int | None,
    size: int | None,
    device: str,
    dtype: Dtype,
    trust_remote_code: bool,
) -> None:
    """Refuse options that have no effect with, or without, a pretrained encoder.

    Raises:
        OTPruneError: names the option.
    """
    if encoder is None:
        if size is not None:
            raise OTPruneError("--size belongs to --encoder vit-s: a model has its own size")
        check_model(model, tokens, trust_remote_code)
        return
    if model is not None:
        raise OTPruneError("--encoder and --model: give one of them")
    if tokens is not None:
        raise OTPruneError(f"--tokens {tokens} belongs to the embedded model: leave out --encoder")
    given = {
        f"--device {device}": device not in ("auto", "cpu"),
        f"--dtype {dtype.value}": dtype not in (Dtype.auto, Dtype.float32),
        "--trust-remote-code": trust_remote_code,
    }
    for name, there in given.items():
        if there:
            raise OTPruneError(
                f"{name} belongs to a model: --encoder {encoder.value} runs on the CPU in float32"
            )
