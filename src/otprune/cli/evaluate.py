"""`otprune eval`: how well a model answers one's own questions with fewer visual tokens."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from otprune.cli import evaluate_options as own
from otprune.cli import options, parsing
from otprune.cli.console import Words, show
from otprune.cli.progress import Steps
from otprune.errors import OTPruneError

if TYPE_CHECKING:
    from otprune.evaluation.answers import Failure, Setting
    from otprune.evaluation.examples import Data
    from otprune.selectors.preset import Pruning

MOST_TOLD = 10  # failures; the file of answers and --json have all
EPILOG = (
    'A line of DATA: {"image": "photo.jpg", "question": "What is this?", "answer": "a cat"}. '
    "Without answers, those of the unpruned model are what is compared with."
)


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A file of JSON lines, a folder with metadata.jsonl, or one of images (with "
            "--question); or sample, data that come with otprune.",
        ),
    ],
    keep: own.Keeps = "0.5,0.25,0.1",
    methods: own.Methods = "otprune,recommended",
    question: own.Question = None,
    match: own.MatchOption = own.Match.exact,
    tolerance: own.Tolerance = 0.02,
    limit: own.Limit = None,
    model: options.Model = None,
    tokens: options.Tokens = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    max_new_tokens: options.MaxNewTokens = 32,
    out: own.Out = None,
    plot: own.Plot = None,
    as_json: options.Json = False,
) -> None:
    """Ask a model your questions about your images, with all visual tokens and with fewer.

    Agreement with the unpruned answer, accuracy, time to first token and memory by keep and method,
    and a suggested keep. With --out a run that was stopped goes on where it was.
    """
    from otprune.evaluation.examples import read

    ways = settings_of(methods, keep)
    parsing.check_model(model, tokens, trust_remote_code)
    found = read(data, question)
    _check_files(found, out, plot)
    found = replace(found, examples=found.examples[:limit])
    with Steps(len(found.examples)) as steps:
        steps.doing("loading the model")
        from otprune.asking import models
        from otprune.cli.evaluate_report import notes, table
        from otprune.evaluation import answers, record, summary

        loaded = models.load(model, tokens, device, dtype.value, trust_remote_code)
        with record.opened(out, answers.head(loaded, max_new_tokens)) as kept:
            rows, failures = answers.ask_all(
                loaded,
                found,
                ways,
                kept.found,
                kept.write,
                max_new_tokens=max_new_tokens,
                doing=steps.doing,
                done=steps.done,
            )
    lines = summary.summary(found.examples, rows, list(ways), match.value)
    best = summary.suggested(lines, tolerance)
    if plot is not None and lines[0].examples:
        from otprune.evaluation.plot import draw

        draw(plot, lines, loaded.name)
    if as_json:
        report = answers.head(loaded, max_new_tokens) | {
            "match": match.value,
            "tolerance": tolerance,
            "examples": len(found.examples),
            "lines": [_plain(asdict(line)) for line in lines],
            "suggested": None if best is None else _plain(asdict(best)),
            "failures": [
                {"example": asdict(x.example), "way": x.way, "error": x.error} for x in failures
            ],
        }
        typer.echo(json.dumps(report, ensure_ascii=False, indent=2))
    elif lines[0].examples:
        show(table(loaded.name, lines), notes(lines, best, tolerance, found.unused))
        for written in (out, plot):
            if written is not None:
                show(Words(Text.assemble(("written: ", "dim"), str(written))))
    _finish(failures, len(found.examples))


def settings_of(methods: str, keeps: str) -> dict[Setting, Pruning]:
    """The settings of `--methods` and `--keep`, each method with each keep.

    Raises:
        OTPruneError: a method, a setting or a keep is wrong.
    """
    from otprune.evaluation.answers import Setting
    from otprune.selectors import by_name

    found: dict[Setting, Pruning] = {}
    for entry in methods.split(","):
        if not entry.strip():
            raise OTPruneError(f"--methods {methods}: an entry is empty")
        method, *given = entry.split()
        parsing.see_here(method)
        values: dict[str, Any] = {}
        for one in given:
            name, sign, value = one.partition("=")
            if not (name and sign and value) or name in values:
                raise OTPruneError(
                    f"--methods {entry.strip()}: expected a method and settings such as "
                    "transport question=0.9 mass=token, each once"
                )
            values[name] = parsing.plain(value)
        for text in keeps.split(","):
            setting = Setting(" ".join([method, *sorted(given)]), text.strip())
            found[setting] = by_name(method, parsing.parse_keep(text.strip()), own=True, **values)
    return found


def _check_files(data: Data, out: Path | None, plot: Path | None) -> None:
    if out is not None and not out.parent.is_dir():
        raise OTPruneError(f"--out {out}: there is no folder {out.parent}")
    if out is not None and out.is_dir():
        raise OTPruneError(f"--out {out} is a folder: give a file, such as {out / 'answers.jsonl'}")
    if plot is not None:
        from otprune.evaluation.plot import check_plot

        check_plot(plot)
        images = (p.path for example in data.examples for p in data.photos(example))
        if any(path is not None and path.resolve() == plot.resolve() for path in images):
            raise OTPruneError(f"--plot {plot} would overwrite an image of the data")
        if out is not None and out.resolve() == plot.resolve():
            raise OTPruneError(f"--plot {plot} would overwrite the answers of --out")


def _finish(failures: Sequence[Failure], examples: int) -> None:
    """Tell the first failures, a line each, and that there were some.

    Raises:
        OTPruneError: there were.
    """
    if not failures:
        return
    for failure in failures[:MOST_TOLD]:
        where = ", ".join(failure.example.images) + f" ({failure.way})" * bool(failure.way)
        print(f"otprune: {where}: {failure.error}", file=sys.stderr)
    if len(failures) > MOST_TOLD:
        print(f"otprune: and {len(failures) - MOST_TOLD} more failures", file=sys.stderr)
    skipped = sum(not failure.way for failure in failures)
    told = [f"{skipped} of {examples} examples were skipped"] * bool(skipped)
    if len(failures) > skipped:
        told.append(f"{len(failures) - skipped} answers of others failed")
    raise OTPruneError(", ".join(told))


def _plain(line: dict[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON does not have."""
    return {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }
