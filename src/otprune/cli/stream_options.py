"""Options of `otprune watch` alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otprune.cli.options import OUT, WHAT

_WHEN = "When to look and ask"

Every = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Ask every so often, in the time of the stream: 2s, 500ms, 1m.",
        rich_help_panel=_WHEN,
    ),
]
OnChange = Annotated[
    bool,
    typer.Option(
        "--on-change",
        help="Ask after each frame of which a token was kept; the default.",
        rich_help_panel=_WHEN,
    ),
]
SeeEvery = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="See only the first frame of every so much time.",
        show_default="every frame",
        rich_help_panel=_WHEN,
    ),
]
MostFrames = Annotated[
    int | None,
    typer.Option(
        "--frames",
        min=1,
        metavar="NUMBER",
        help="Stop after so many frames.",
        rich_help_panel=_WHEN,
    ),
]
MostTime = Annotated[
    str | None,
    typer.Option(
        "--seconds",
        metavar="TIME",
        help="Stop at this time of the source.",
        rich_help_panel=_WHEN,
    ),
]
Fps = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="A folder of images: frames a second.",
        show_default="1",
        rich_help_panel=_WHEN,
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="stream, fixed-camera, dtd or uniform, for streams; or one of `otprune methods`, "
        "for each frame by itself.",
        show_default="stream; embedded model: otprune",
        rich_help_panel=WHAT,
    ),
]
Rate = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="Tokens a frame: on average, or of each frame by itself.",
        show_default="16",
        rich_help_panel=WHAT,
    ),
]
Memory = Annotated[
    int | None,
    typer.Option(
        metavar="NUMBER",
        help="The most visual tokens that are remembered.",
        show_default="2048, or half of the model's positions; embedded model with frames by "
        "themselves: one frame's",
        rich_help_panel=WHAT,
    ),
]
Forget = Annotated[
    str,
    typer.Option(
        metavar="oldest|replaced|NAME",
        help="What leaves a full memory: the oldest tokens; or a method chooses three quarters "
        "that stay. replaced: a token leaves when another in its place is kept.",
        rich_help_panel=WHAT,
    ),
]
Unchanged = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="A frame is not encoded if no part of it changed by more than this share of full "
        "brightness; 0: all are.",
        rich_help_panel=WHAT,
    ),
]
Record = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write a video (.mp4): each frame, its kept patches, and the current answer.",
        rich_help_panel=OUT,
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Save what is remembered at the end (safetensors).",
        rich_help_panel=OUT,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Go on from what --save wrote, with the same model and options.",
        rich_help_panel=OUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, an object a line.", rich_help_panel=OUT)
]
ChangesOnly = Annotated[
    bool,
    typer.Option(
        "--changes-only",
        help="Print an answer only if it differs from the one before.",
        rich_help_panel=OUT,
    ),
]
