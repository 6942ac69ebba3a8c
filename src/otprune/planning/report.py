"""A plan as rows of a table, as sentences and as plain values."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from otprune.asking.units import in_bytes, in_flops, in_seconds
from otprune.selectors.named import name_of
from otprune.selectors.settings import shown

if TYPE_CHECKING:
    from otprune.planning.forecast import Plan

SIDES: tuple[Literal["before", "after"], ...] = ("before", "after")
# Operations up to the first token below which steps cost more to start than to do: the embedded
# model, where 0.9 G pay in operations and not in time, is below; models of 0.5 B are far above.
SMALL = 10**10
HEADINGS = ("", "all tokens", "kept", "left")


def title(plan: Plan) -> str:
    """The model and the method."""
    own = [f"{name}={value}" for name, value in shown(plan.method).items() if value is not None]
    settings = ", ".join([f"keep={plan.keep}", *own])
    return f"{plan.model} ({plan.family})  {name_of(plan.method).rpartition(':')[2]} ({settings})"


def request(plan: Plan) -> str:
    """What is asked of the model, in a line."""
    sizes = Counter(plan.images)
    what = ", ".join(_images(n, f"{w}x{h}") for (w, h), n in sizes.items())
    if plan.frames is not None:
        what = f"a video of {plan.frames} frame{'s' * (plan.frames > 1)} of {what.split(' ')[-1]}"
    return f"{what}, {plan.text} tokens of text, an answer of {plan.answer_tokens}; {plan.dtype}"


def _images(n: int, size: str) -> str:
    return f"one image of {size}" if n == 1 else f"{n} images of {size}"


def rows(plan: Plan) -> list[tuple[str, str, str, str]]:
    """The table: what, with every token, with the kept ones, and what is left of it."""
    a, b = plan.before, plan.after
    made = [_row("visual tokens", a.visual_tokens, b.visual_tokens, str)]
    made.append(_row("prompt tokens", a.prompt_tokens, b.prompt_tokens, str))
    made.append(_row("encoder, FLOP", a.encoder, b.encoder, in_flops))
    about = "" if plan.counted else "about "
    made.append(("selection, FLOP", "-", about + in_flops(b.selection), ""))
    made.append(_row("prefill, FLOP", a.prefill, b.prefill, in_flops))
    made.append(_row("first token, FLOP", a.first_token, b.first_token, in_flops))
    made.append(_row("answer behind it, FLOP", a.decode, b.decode, in_flops))
    made.append(_row("KV cache at the end", a.cache_bytes, b.cache_bytes, in_bytes))
    if plan.rates is not None:
        first, behind = (
            [getattr(side, name)(plan.rates) for side in (a, b)]
            for name in ("first_token_seconds", "decode_seconds")
        )
        made.append(_row("time to first token", first[0], first[1], in_seconds))
        made.append(_row("time of the answer behind it", behind[0], behind[1], in_seconds))
    if plan.cache_budget is not None:
        fit = [str(plan.requests_in(plan.cache_budget, side)) for side in SIDES]
        made.append((f"requests in {in_bytes(plan.cache_budget)}", fit[0], fit[1], ""))
    return made


def _row(name: str, before: Any, after: Any, write: Any) -> tuple[str, str, str, str]:
    left = f"{after / before:.1%}" if before else ""
    return name, write(before), write(after), left


def sentences(plan: Plan) -> list[str]:
    """How far pruning gets, where it stops, and whether it pays."""
    least = plan.least
    rest = least.first_token
    share = {"the encoder": least.encoder, "the text": least.prefill}[plan.stops_at] / rest
    said = [
        f"First token: {plan.speed_up:.2f} times fewer operations, {plan.speed_up_at_most:.2f} at "
        f"most however few tokens stay: {plan.stops_at} is {share:.0%} of what is then left."
    ]
    saved = plan.saved + plan.after.selection
    if plan.before.visual_tokens == plan.after.visual_tokens:
        said.append("Nothing is pruned: every token is kept.")
    elif plan.pays:
        said.append(
            f"Pruning pays: selecting costs {plan.after.selection / saved:.1%} of the operations "
            "that it saves."
        )
        if plan.before.first_token < SMALL:
            said.append(
                "So few operations take less time than starting them does, and selecting starts "
                "many: measure whether it pays in time (otprune ask)."
            )
    else:
        said.append(
            "Pruning does not pay in operations: selecting costs more than it saves; the cache is "
            "smaller all the same."
        )
    if len(plan.visual) > 1 and len({one.before for one in plan.visual}) > 1:
        each = ", ".join(f"{one.before} -> {one.after}" for one in plan.visual)
        said.append(f"Tokens of each {plan.visual[0].unit}: {each}.")
    return said


def text(plan: Plan) -> str:
    """The whole plan, readable."""
    table = [HEADINGS, *rows(plan)]
    widths = [max(len(row[i]) for row in table) for i in range(4)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([title(plan), request(plan), *lines, *sentences(plan)])


def values(plan: Plan) -> dict[str, Any]:
    """Everything, as JSON has it."""
    made: dict[str, Any] = {
        "model": plan.model,
        "family": plan.family,
        "dtype": plan.dtype,
        "images": [list(size) for size in plan.images],
        "frames": plan.frames,
        "visual": [asdict(one) for one in plan.visual],
        "around": plan.around,
        "text": plan.text,
        "answer": plan.answer_tokens,
        "keep": plan.keep,
        "method": name_of(plan.method),
        "requests": plan.requests,
        "before": asdict(plan.before),
        "after": asdict(plan.after),
        "least": asdict(plan.least),
        "selection_counted": plan.counted,
        "speed_up": plan.speed_up,
        "speed_up_at_most": plan.speed_up_at_most,
        "stops_at": plan.stops_at,
        "pays": plan.pays,
        "shares": plan.shares,
    }
    if plan.rates is not None:
        made["rates"] = asdict(plan.rates)
        for name in SIDES:
            side = getattr(plan, name)
            made[name]["first_token_seconds"] = side.first_token_seconds(plan.rates)
            made[name]["decode_seconds"] = side.decode_seconds(plan.rates)
    if plan.cache_budget is not None:
        made["cache_budget"] = plan.cache_budget
        for name in SIDES:
            made[name]["requests"] = plan.requests_in(plan.cache_budget, name)
    return made
