"""`otprune bench quality`."""

from __future__ import annotations

from typing import Annotated

import typer

from otprune.cli.parsing import see_here
from otprune.errors import OTPruneError
from otprune_bench.options import PHOTOS, Out, Photos, Quick, Seed, photographs, start


def command(
    out: Out = None,
    seed: Seed = 0,
    quick: Quick = False,
    photos: Photos = None,
    split: Annotated[
        str,
        typer.Option(
            metavar="validation|test", help="Images to choose settings by, or to look at once."
        ),
    ] = "test",
    line: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A line of the table, to run it and the baselines alone; may be repeated.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODULE:CLASS", help="A line more, a method of your own; may be repeated."
        ),
    ] = None,
) -> None:
    """The whole field: the embedded model's answers with every method, ours and others'.

    Accuracy by kind of question, average rank, loyalty, group A, and times. Some half an hour on
    one core.
    """
    from otprune.selectors.named import class_of
    from otprune_bench.embedded.tasks import SPLITS

    if split not in SPLITS:
        raise OTPruneError(f"--split {split}: expected {' or '.join(SPLITS)}")
    own = tuple(dict.fromkeys(method or ()))
    for name in own:
        if ":" not in name:
            raise OTPruneError(
                f"--method {name}: expected MODULE:CLASS, a class of your own; otprune's methods "
                "are all there"
            )
        see_here(name)
        class_of(name, own=True)
    below = photographs(photos, PHOTOS, quick)
    chosen = {"lines": tuple(line)} if line else {}
    start("quality", out, seed, quick, below, split=split, own=own, **chosen)
