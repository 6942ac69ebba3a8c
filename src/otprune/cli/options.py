"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

WHAT, MODEL, OUT = "What to keep", "Model", "Output"


class PositionScheme(str, Enum):
    """Positions of kept tokens."""

    auto = "auto"
    preserved = "preserved"
    compact = "compact"


class Metric(str, Enum):
    """The metric of transport."""

    cosine = "cosine"
    euclidean = "euclidean"


class Mass(str, Enum):
    """The mass of kept tokens in attention."""

    none = "none"
    total = "total"
    token = "token"


class LayerRank(str, Enum):
    """The rank of a stage inside the language model."""

    fastv = "fastv"
    pyramiddrop = "pyramiddrop"
    dart = "dart"
    vtw = "vtw"
    sparsevlm = "sparsevlm"


class Measure(str, Enum):
    """The measure that `--keep auto` compares with its target."""

    distance = "distance"
    certificate = "certificate"


class Encoder(str, Enum):
    """Pretrained encoders."""

    vit_s = "vit-s"


class Dtype(str, Enum):
    """Number format of a model."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Keep = Annotated[
    str,
    typer.Option(
        metavar="RATIO|NUMBER|auto",
        help="How many visual tokens stay: with a point a ratio (0.1), without a number (16), or "
        "as few as reach --target.",
        rich_help_panel=WHAT,
    ),
]
Target = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="auto: the largest distance, or the smallest certificate, to accept.",
        show_default="0.1 or 0.9",
        rich_help_panel=WHAT,
    ),
]
MeasureOption = Annotated[
    Measure | None,
    typer.Option(
        help="auto: what the target is compared with.",
        show_default="distance",
        rich_help_panel=WHAT,
    ),
]
MaxKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="auto: the most to keep, even where they do not reach the target.",
        show_default="0.5",
        rich_help_panel=WHAT,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME|MODULE:CLASS",
        help="One of those that `otprune methods` lists, or recommended: method, merging, mass "
        "and distance as docs/mass.md advises; or a class of your own, which is imported.",
        rich_help_panel=WHAT,
    ),
]
# The methods' own settings are listed here, since the options of a command are fixed when it is
# declared and `--help` must not wait for torch. A test compares the list with the methods. Only
# OTPrune's backend has no option, since it does not change what is kept.
Gamma = Annotated[
    str | None,
    typer.Option(
        metavar="scaled|NUMBER",
        help="otprune: weight of the objective; the paper's is 0.01.",
        show_default="scaled",
        rich_help_panel=WHAT,
    ),
]
MetricOption = Annotated[
    Metric | None,
    typer.Option(
        help="transport: distances of tokens at unit length, or of tokens as they are.",
        show_default="cosine",
        rich_help_panel=WHAT,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of the method, such as question=0.8 of transport; may be repeated.",
        rich_help_panel=WHAT,
    ),
]
Rank = Annotated[
    str | None,
    typer.Option(
        metavar="auto|NUMBER",
        help="otprune: choose from a random projection to so many features; auto is 256.",
        show_default="all features",
        rich_help_panel=WHAT,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="NUMBER",
        help="random: seed of the draw.",
        show_default="0",
        rich_help_panel=WHAT,
    ),
]
Merge = Annotated[
    bool,
    typer.Option(
        "--merge",
        help="Kept tokens become the mean of the tokens that they stand for.",
        rich_help_panel=WHAT,
    ),
]
MassOption = Annotated[
    Mass | None,
    typer.Option(
        help="What kept tokens weigh in attention: one each, together as much as all tokens, or "
        "each as much as those that it stands for.",
        show_default="none",
        rich_help_panel=WHAT,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="NUMBER",
        help="--mass, --distance: their strength; 1 is all of it.",
        show_default="1",
        rich_help_panel=WHAT,
    ),
]
EncoderKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="How many tokens of each image or tile stay inside the vision encoder: its later "
        "layers work on these alone.",
        show_default="all",
        rich_help_panel=WHAT,
    ),
]
EncoderAfter = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|NUMBER",
        help="--encoder-keep: so many of the encoder's layers come before it; with a point a share "
        "(0.5), without a number (12).",
        show_default="0.6",
        rich_help_panel=WHAT,
    ),
]
LayerRankOption = Annotated[
    LayerRank | None,
    typer.Option(
        "--layer-rank",
        help="Later layers of the language model run on fewer visual tokens, chosen by this rank.",
        show_default="no such stage",
        rich_help_panel=WHAT,
    ),
]
LayerAfter = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|NUMBER",
        help="--layer-rank: so many of the language model's layers see all tokens; a share with a "
        "point (0.5), or a number (2); several with commas.",
        show_default="the rank's own",
        rich_help_panel=WHAT,
    ),
]
LayerKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="--layer-rank: how many of the tokens that enter the language model stay; one for "
        "each of --layer-after.",
        show_default="the rank's own",
        rich_help_panel=WHAT,
    ),
]
Distance = Annotated[
    bool,
    typer.Option(
        "--distance",
        help="Attention to kept tokens makes up for the distance that rotary embeddings see.",
        rich_help_panel=WHAT,
    ),
]
Positions = Annotated[
    PositionScheme,
    typer.Option(
        help="Kept tokens keep their positions in the prompt, or are counted anew; auto is what "
        "suits the model and --mass.",
        rich_help_panel=WHAT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FOLDER",
        help="A Hugging Face model or a local folder of one.",
        show_default="the embedded model",
        rich_help_panel=MODEL,
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        metavar="144|324",
        help="The embedded model: how many tokens it makes of a photograph.",
        show_default="144",
        rich_help_panel=MODEL,
    ),
]
EncoderOption = Annotated[
    Encoder | None,
    typer.Option(
        help="A pretrained encoder instead of a model's; `otprune fetch vit-s` gets it.",
        rich_help_panel=MODEL,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="224|336|448",
        help="vit-s: side of the square it sees, for 256, 576 or 1024 tokens.",
        show_default="224",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|mps",
        help="Where the model runs; auto takes a GPU if there is one.",
        rich_help_panel=MODEL,
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        help="The model's numbers; auto: as stored, on a CPU float32.", rich_help_panel=MODEL
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code of the model's repository. Only for authors you trust.",
        rich_help_panel=MODEL,
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(min=1, metavar="NUMBER", help="Longest answer.", rich_help_panel=MODEL)
]
Overlay = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write an image: kept patches clear, dropped ones dim; a row for each photograph.",
        rich_help_panel=OUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=OUT)
]
ContinueOnError = Annotated[
    bool,
    typer.Option(
        "--continue-on-error",
        help="Go on with the other photographs where one fails; the exit status is 2 all the same.",
        rich_help_panel=OUT,
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="NUMBER",
        help="Timings are the median of so many, after a warm-up.",
        rich_help_panel=OUT,
    ),
]
Host = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS",
        help="Where the page listens. Any other than this machine's own, such as 0.0.0.0, lets "
        "others use it, without a password.",
        rich_help_panel=OUT,
    ),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, metavar="NUMBER", help="0: any.", rich_help_panel=OUT)
]
