"""`otprune plan`: what pruning would cost and save, from a model's config alone."""

from __future__ import annotations

import json
import re
from typing import Annotated

import typer
from rich.text import Text

from otprune.cli import options, parsing
from otprune.cli.console import Figures, Words, show
from otprune.cli.progress import Steps
from otprune.errors import KeepError, OTPruneError
from otprune.keep import Auto

REQUEST, BUDGET, MACHINE = "The request", "A budget, which finds --keep", "The machine"
EPILOG = (
    "Operations are no seconds: without --flops and --bandwidth only ratios are forecast. "
    "docs/plan.md says how well they were met."
)


def plan(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A folder, or a name on the hub; only config and processor are read.",
            show_default="the embedded model",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WIDTHxHEIGHT",
            help="Size of an image in pixels; may be repeated.",
            show_default="1920x1080",
            rich_help_panel=REQUEST,
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1, metavar="NUMBER", help="So many images of that size.", rich_help_panel=REQUEST
        ),
    ] = 1,
    frames: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="One video of so many frames of that size instead.",
            show_default="no video",
            rich_help_panel=REQUEST,
        ),
    ] = None,
    text: Annotated[
        int,
        typer.Option(min=0, metavar="TOKENS", help="Text of the prompt.", rich_help_panel=REQUEST),
    ] = 100,
    answer: Annotated[
        int,
        typer.Option(
            min=1, metavar="TOKENS", help="Length of the answer.", rich_help_panel=REQUEST
        ),
    ] = 100,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="RATIO|NUMBER",
            help="How many visual tokens of each image stay: with a point a ratio (0.1), without a "
            "number (16).",
            show_default="0.1",
            rich_help_panel=options.WHAT,
        ),
    ] = None,
    method: options.Method = "otprune",
    settings: options.Set = None,
    encoder_keep: options.EncoderKeep = None,
    encoder_after: options.EncoderAfter = None,
    cache_budget: Annotated[
        str | None,
        typer.Option(
            metavar="BYTES",
            help="For the KV caches of all requests: 500MiB, 8GiB.",
            show_default="none",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    requests: Annotated[
        int,
        typer.Option(min=1, metavar="NUMBER", help="Requests at once.", rich_help_panel=BUDGET),
    ] = 1,
    time_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE|SECONDS",
            help="Up to the first token: 0.5x is half of the operations without pruning; 800ms or "
            "1.5s needs the machine.",
            show_default="none",
            rich_help_panel=BUDGET,
        ),
    ] = None,
    flops: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Operations a second that it achieves in a prefill: 400e12. Measure it.",
            show_default="not known",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option(
            metavar="NUMBER",
            help="Bytes a second that it reads while decoding: 2e12. Measure it.",
            show_default="not known",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    dtype: Annotated[
        options.Dtype,
        typer.Option(
            help="Numbers of weights and cache; auto: the config's.", rich_help_panel=MACHINE
        ),
    ] = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    as_json: options.Json = False,
) -> None:
    """Forecast what pruning costs and saves, from a model's config alone: no weights are read.

    Visual tokens as the model's own processor counts them, operations, KV cache, and how far
    pruning can get.
    """
    if trust_remote_code and model is None:
        raise OTPruneError("--trust-remote-code belongs to MODEL: the embedded model has no code")
    sizes = _sizes(image, images)
    wanted = None if keep is None else parsing.parse_keep(keep)
    if isinstance(wanted, Auto):
        raise KeepError(
            "--keep auto cannot be planned: how many tokens stay then depends on what the images "
            "show; give a ratio or a number, or a budget (--cache-budget, --time-budget)"
        )
    stage = parsing.encoder_stage(encoder_keep, encoder_after)
    pruning = parsing.pruning(method, 0.1, settings=parsing.with_settings({}, settings))
    with Steps(1) as steps:
        steps.doing("planning")
        from otprune.asking.units import bytes_of
        from otprune.planning import Rates, report
        from otprune.planning import plan as forecast

        share, seconds = _time(time_budget)
        if (flops is None) != (bandwidth is None):
            raise OTPruneError("--flops and --bandwidth describe one machine: give both of them")
        rates = None if flops is None or bandwidth is None else Rates(flops, bandwidth)
        if seconds is not None and rates is None:
            raise OTPruneError(
                f"--time-budget {time_budget} is in seconds, which operations are not by "
                "themselves: add --flops and --bandwidth, or give a share such as 0.5x"
            )
        made = forecast(
            model,
            sizes,
            frames=frames,
            text=text,
            answer=answer,
            keep=wanted,
            method=pruning,
            encoder=stage,
            dtype=dtype.value,
            requests=requests,
            cache_budget=None if cache_budget is None else bytes_of(cache_budget),
            share=share,
            seconds=seconds,
            rates=rates,
            trust_remote_code=trust_remote_code,
        )
    if as_json:
        print(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
        return
    show(
        Words(Text(f"{report.title(made)}\n{report.request(made)}")),
        Figures(report.HEADINGS, report.rows(made), wraps=[0]),
        Words(Text("\n" + "\n".join(report.sentences(made)))),
    )


def _sizes(given: list[str] | None, times: int) -> list[tuple[int, int]]:
    found = []
    for text in given or ["1920x1080"]:
        size = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
        if size is None:
            raise OTPruneError(f"--image {text}: expected WIDTHxHEIGHT in pixels, like 1920x1080")
        found.append((int(size[1]), int(size[2])))
    if times > 1 and len(found) > 1:
        raise OTPruneError(
            f"--images {times} multiplies one --image, and {len(found)} are given: repeat --image "
            "for each, or give one"
        )
    return found * times


def _time(text: str | None) -> tuple[float | None, float | None]:
    """A share of the operations, or seconds."""
    from otprune.asking.units import seconds_of

    if text is None:
        return None, None
    share = re.fullmatch(r"\s*(\d*\.?\d+)\s*x\s*", text)
    if share is not None:
        return float(share[1]), None
    seconds = seconds_of(text)
    if seconds is None:
        raise OTPruneError(
            f"--time-budget {text}: expected a share, such as 0.5x, or a time, such as 800ms"
        )
    return None, seconds
