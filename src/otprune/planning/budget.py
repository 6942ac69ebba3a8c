"""The largest keep that is within budgets of memory and time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from otprune.asking.units import in_bytes
from otprune.errors import KeepError, OTPruneError
from otprune.planning.costs import kept, largest_keep
from otprune.planning.request import Costs, Rates, Request


def fitting(
    made: Request,
    before: Costs,
    least: Costs,
    requests: int,
    budgets: Mapping[str, Any],
    rates: Rates | None,
) -> float:
    """The largest ratio that is within every budget.

    Raises:
        OTPruneError: none is; says what takes the budget.
    """
    cache, share, seconds = budgets["cache_budget"], budgets["share"], budgets["seconds"]
    most = math.inf if share is None else share * before.first_token
    if seconds is not None and rates is not None:
        most = min(most, seconds * rates.flops)

    def in_memory(keep: float) -> bool:
        return cache is None or requests * made.cache_bytes(kept(keep, made.tokens)) <= cache

    def in_time(keep: float) -> bool:
        return most == math.inf or made.after(made.method.at(keep)).first_token <= most

    memory, time = largest_keep(in_memory), largest_keep(in_time)
    if memory is None:
        each = made.cache_bytes(0)
        raise OTPruneError(
            f"no keep fits a cache of {in_bytes(cache)}: text and answer of {requests} "
            f"request{'s' * (requests > 1)} alone take {in_bytes(requests * each)} of it, and one "
            "token of each image comes on top; plan for fewer requests at once, less text or a "
            "larger cache"
        )
    if time is None:
        encoder, text, allowed = (
            f"{part / before.first_token:.0%}"
            for part in (least.encoder + least.selection, least.prefill, most)
        )
        raise OTPruneError(
            "no keep is fast enough: of the operations up to the first token the encoder takes "
            f"{encoder} and the text {text}, which dropping visual tokens in front of the prefill "
            f"does not change, and {allowed} are allowed; allow more, or prune inside the encoder "
            "(encoder=, --encoder-keep)"
        )
    return min(memory, time)


def check_budgets(keep: object, budgets: Mapping[str, Any], rates: Rates | None) -> None:
    given = {name: value for name, value in budgets.items() if value is not None}
    for name, value in given.items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 < value < math.inf:
            raise OTPruneError(f"{name}={value!r}: expected a number above 0")
    if given and keep is not None:
        raise KeepError(
            f"keep={keep!r} and {' and '.join(given)}: a budget finds the keep, so give one of them"
        )
    if "seconds" in given and rates is None:
        raise OTPruneError(
            "seconds= needs rates=, what the machine achieves: operations are no seconds by "
            "themselves (or give share=, of the operations without pruning)"
        )
