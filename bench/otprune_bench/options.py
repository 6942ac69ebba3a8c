"""What the commands of the benches have in common. Light to import: no torch."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from otprune.errors import OTPruneError

Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Where results, report and plots go.",
        show_default="out/bench/NAME",
    ),
]
Seed = Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Of everything random.")]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes, to see that everything works.")]

PHOTOS = Path("runs/demo/photos")  # those of the embedded model's training
PHOTOS_HELP = (
    "Photographs below the stickers; collected from packages if not there. "
    "--quick has none: smooth noise."
)
Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=PHOTOS_HELP, show_default=str(PHOTOS))
]

Models = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=FOLDER",
        help="Another checkpoint of the embedded model's kind (`make demo-models`); repeat it.",
    ),
]


def named_models(given: list[str] | None) -> tuple[tuple[str, str], ...]:
    """Name and folder of each `--model NAME=FOLDER`.

    Raises:
        OTPruneError: one is not of that form, or has no weights.
    """
    found = []
    for text in given or ():
        name, _, folder = text.partition("=")
        if not (name and folder and (Path(folder) / "model.safetensors").exists()):
            raise OTPruneError(
                f"--model {text}: expected NAME=FOLDER, a folder with model.safetensors in it"
            )
        found.append((name, folder))
    return tuple(found)


def photographs(given: Path | None, usual: Path, quick: bool) -> Path:
    """The folder of photographs.

    Raises:
        OTPruneError: one was given to a quick run, which uses none.
    """
    if quick and given is not None:
        raise OTPruneError("--photos has no meaning with --quick, which uses smooth noise")
    return given or usual


def start(
    name: str, out: Path | None, seed: int, quick: bool, *photos: Path, **changes: Any
) -> None:
    """Run a bench: its plan `QUICK` or `FULL` with this seed and other changes.

    What it needs is imported here, so that the commands themselves are light.
    """
    plans = import_module(f"otprune_bench.{name}.plan")
    plan = replace(plans.QUICK if quick else plans.FULL, seed=seed, **changes)
    with ends_in_order(), report_folder(out, name, quick) as folder:
        import_module(f"otprune_bench.{name}.run").run(folder, plan, *photos)


@contextmanager
def ends_in_order() -> Iterator[None]:
    """Told to end (SIGTERM), a bench ends as by Ctrl-C: with the servers that it started."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def report_folder(out: Path | None, name: str, quick: bool) -> Iterator[Path]:
    """The folder that a bench writes, made before anything is measured; at the end it is named.

    Raises:
        OTPruneError: nothing can be written there.
    """
    from otprune.asking.drawing import check_folder

    folder = out or Path("out") / "bench" / (f"{name}-quick" if quick else name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise OTPruneError(f"--out {folder}: cannot make this folder: {cause.strerror}") from cause
    check_folder("--out", folder)
    yield folder
    print(f"report written to {folder / 'report.md'}")
