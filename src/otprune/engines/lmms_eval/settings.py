"""Plain settings as the library takes them: of a task's generation, and of `--model_args`."""

from __future__ import annotations

from typing import Any

from otprune.engines.common.layer_stage import LayerStage, Rank
from otprune.errors import OTPruneError

MOST_NEW_TOKENS = 1024  # where a task does not say


def decoding(wanted: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `generate`; greedy decoding has no temperature."""
    temperature = float(wanted.get("temperature") or 0)
    found: dict[str, Any] = {
        "max_new_tokens": int(wanted.get("max_new_tokens") or MOST_NEW_TOKENS),
        "num_beams": int(wanted.get("num_beams") or 1),
        "do_sample": temperature > 0,
        "temperature": temperature if temperature > 0 else None,
        "top_p": wanted.get("top_p") if temperature > 0 else None,
    }
    return found


def cut(text: str, until: str | list[str] | None) -> str:
    """The answer up to its first stop string; stop strings of white space alone are ignored."""
    for stop in [until] if isinstance(until, str) else until or []:
        if stop.strip():
            text = text.split(stop)[0]
    return text.strip()


def layer_stage(
    rank: Rank | None = None, after: float | int | None = None, keep: float | int | None = None
) -> LayerStage | None:
    """The stage that `layer_rank`, `layer_after` and `layer_keep` ask for; None without the first.

    A stage of several cuts has the published settings of its rank here: values with commas are
    other arguments to lmms-eval.

    Raises:
        KeepError, OTPruneError: a value is wrong, or is given without `layer_rank`.
    """
    if rank is None:
        for name, value in (("layer_after", after), ("layer_keep", keep)):
            if value is not None:
                raise OTPruneError(
                    f"{name}={value!r} belongs to layer_rank: give both, or leave it out"
                )
        return None
    try:
        return LayerStage(after, keep, rank)
    except OTPruneError as error:
        raise type(error)(f"layer_rank={rank!r}: {error}") from None
