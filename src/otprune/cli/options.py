"""Options that several commands share, and their conversion to arguments of the library."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otprune import demo
from otprune.errors import KeepError, OTPruneError
from otprune.keep import Auto

if TYPE_CHECKING:
    from otprune.engines.common.layer_stage import LayerStage
    from otprune.engines.common.stage import EncoderStage
    from otprune.selectors.base import Selector
    from otprune.selectors.preset import Pruning

_WHAT, _MODEL, _OUT = "What to keep", "Model", "Output"


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
        rich_help_panel=_WHAT,
    ),
]
Target = Annotated[
    float | None,
    typer.Option(
        metavar="NUMBER",
        help="auto: the largest distance, or the smallest certificate, to accept.",
        show_default="0.1 or 0.9",
        rich_help_panel=_WHAT,
    ),
]
MeasureOption = Annotated[
    Measure | None,
    typer.Option(
        help="auto: what the target is compared with.",
        show_default="distance",
        rich_help_panel=_WHAT,
    ),
]
MaxKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="auto: the most to keep, even where they do not reach the target.",
        show_default="0.5",
        rich_help_panel=_WHAT,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        metavar="NAME|MODULE:CLASS",
        help="One of those that `otprune methods` lists, or recommended: method, merging, mass "
        "and distance as docs/mass.md advises; or a class of your own, which is imported.",
        rich_help_panel=_WHAT,
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
        rich_help_panel=_WHAT,
    ),
]
MetricOption = Annotated[
    Metric | None,
    typer.Option(
        help="transport: distances of tokens at unit length, or of tokens as they are.",
        show_default="cosine",
        rich_help_panel=_WHAT,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Another setting of the method, such as question=0.8 of transport; may be repeated.",
        rich_help_panel=_WHAT,
    ),
]
Rank = Annotated[
    str | None,
    typer.Option(
        metavar="auto|NUMBER",
        help="otprune: choose from a random projection to so many features; auto is 256.",
        show_default="all features",
        rich_help_panel=_WHAT,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="NUMBER",
        help="random: seed of the draw.",
        show_default="0",
        rich_help_panel=_WHAT,
    ),
]
Merge = Annotated[
    bool,
    typer.Option(
        "--merge",
        help="Kept tokens become the mean of the tokens that they stand for.",
        rich_help_panel=_WHAT,
    ),
]
MassOption = Annotated[
    Mass | None,
    typer.Option(
        help="What kept tokens weigh in attention: one each, together as much as all tokens, or "
        "each as much as those that it stands for.",
        show_default="none",
        rich_help_panel=_WHAT,
    ),
]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="NUMBER",
        help="--mass, --distance: their strength; 1 is all of it.",
        show_default="1",
        rich_help_panel=_WHAT,
    ),
]
EncoderKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="How many tokens of each image or tile stay inside the vision encoder: its later "
        "layers work on these alone.",
        show_default="all",
        rich_help_panel=_WHAT,
    ),
]
EncoderAfter = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|NUMBER",
        help="--encoder-keep: so many of the encoder's layers see all tokens; with a point a share "
        "(0.5), without a number (12).",
        show_default="0.6",
        rich_help_panel=_WHAT,
    ),
]
LayerRankOption = Annotated[
    LayerRank | None,
    typer.Option(
        "--layer-rank",
        help="Later layers of the language model run on fewer visual tokens, chosen by this rank.",
        show_default="no such stage",
        rich_help_panel=_WHAT,
    ),
]
LayerAfter = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE|NUMBER",
        help="--layer-rank: so many of the language model's layers see all tokens; a share with a "
        "point (0.5), or a number (2); several with commas.",
        show_default="the rank's own",
        rich_help_panel=_WHAT,
    ),
]
LayerKeep = Annotated[
    str | None,
    typer.Option(
        metavar="RATIO|NUMBER",
        help="--layer-rank: how many of the tokens that enter the language model stay; one for "
        "each of --layer-after.",
        show_default="the rank's own",
        rich_help_panel=_WHAT,
    ),
]
Distance = Annotated[
    bool,
    typer.Option(
        "--distance",
        help="Attention to kept tokens makes up for the distance that rotary embeddings see.",
        rich_help_panel=_WHAT,
    ),
]
Positions = Annotated[
    PositionScheme,
    typer.Option(
        help="Kept tokens keep their positions in the prompt, or are counted anew; auto is what "
        "suits the model and --mass.",
        rich_help_panel=_WHAT,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FOLDER",
        help="A Hugging Face model or a local folder of one.",
        show_default="the embedded model",
        rich_help_panel=_MODEL,
    ),
]
Tokens = Annotated[
    int | None,
    typer.Option(
        metavar="144|324",
        help="The embedded model: how many tokens it makes of a photograph.",
        show_default="144",
        rich_help_panel=_MODEL,
    ),
]
EncoderOption = Annotated[
    Encoder | None,
    typer.Option(
        help="A pretrained encoder instead of a model's; `otprune fetch vit-s` gets it.",
        rich_help_panel=_MODEL,
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        metavar="224|336|448",
        help="vit-s: side of the square it sees, for 256, 576 or 1024 tokens.",
        show_default="224",
        rich_help_panel=_MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|mps",
        help="Where the model runs; auto takes a GPU if there is one.",
        rich_help_panel=_MODEL,
    ),
]
DtypeOption = Annotated[
    Dtype,
    typer.Option(
        help="The model's numbers; auto: as stored, on a CPU float32.", rich_help_panel=_MODEL
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code of the model's repository. Only for authors you trust.",
        rich_help_panel=_MODEL,
    ),
]
Overlay = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write an image: kept patches clear, dropped ones dim; a row for each photograph.",
        rich_help_panel=_OUT,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of tables.", rich_help_panel=_OUT)
]
ContinueOnError = Annotated[
    bool,
    typer.Option(
        "--continue-on-error",
        help="Go on with the other photographs where one fails; the exit status is 2 all the same.",
        rich_help_panel=_OUT,
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="NUMBER",
        help="Timings are the median of so many, after a warm-up.",
        rich_help_panel=_OUT,
    ),
]


def parse_keep(
    text: str,
    target: float | None = None,
    measure: Measure | None = None,
    max_keep: str | None = None,
) -> float | int | Auto:
    """`--keep` for the library: a ratio if it has a point, else a number of tokens; or "auto".

    Raises:
        KeepError: it is none of these. The range of a number is checked by the selector.
    """
    if text == "auto":
        most = 0.5 if max_keep is None else _parse_number("--max-keep", max_keep, "16")
        return Auto(target, "distance" if measure is None else measure.value, most)
    given = {"--target": target, "--measure": measure, "--max-keep": max_keep}
    for name, value in given.items():
        if value is not None:
            raise KeepError(f"{name} belongs to --keep auto, and --keep is {text}")
    return _parse_number("--keep", text, "16, or auto")


def _parse_number(option: str, text: str, last: str) -> float | int:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise KeepError(
            f"{option} {text}: expected a ratio with a point, like 0.1, or a whole number, like "
            f"{last}"
        ) from None


def encoder_stage(keep: str | None, after: str | None) -> EncoderStage | None:
    """The stage that `--encoder-keep` and `--encoder-after` ask for; None without the first.

    Raises:
        KeepError, OTPruneError: an option is wrong, or the second is given alone.
    """
    if keep is None:
        if after is not None:
            raise OTPruneError(
                "--encoder-after belongs to --encoder-keep: give both, or leave it out"
            )
        return None
    ratio = _parse_number("--encoder-keep", keep, "200")
    share = None if after is None else _parse_number("--encoder-after", after, "12")
    from otprune.engines.common.stage import stage_of  # torch takes a second

    return stage_of(ratio, share)


def with_settings(own: dict[str, Any], given: list[str] | None) -> dict[str, Any]:
    """The settings of options of their own, and those that `--set NAME=VALUE` gives.

    Raises:
        OTPruneError: one has another form, or is given twice.
    """
    found = dict(own)
    for one in given or []:
        name, sign, value = (part.strip() for part in one.partition("="))
        if not (name and sign and value):
            raise OTPruneError(f"--set {one}: expected NAME=VALUE, such as --set damping=3")
        if found.get(name) is not None:
            raise OTPruneError(f"{name} is given twice: give it once")
        found[name] = value
    return found


def layer_stage(rank: LayerRank | None, after: str | None, keep: str | None) -> LayerStage | None:
    """The stage that `--layer-rank` and its options ask for; None without the first.

    Raises:
        KeepError, OTPruneError: an option is wrong, or is given without `--layer-rank`.
    """
    if rank is None:
        for name, text in (("--layer-after", after), ("--layer-keep", keep)):
            if text is not None:
                raise OTPruneError(f"{name} belongs to --layer-rank: give both, or leave it out")
        return None
    from otprune.engines.common.layer_stage import LayerStage  # torch takes a second

    several = (
        _parse_numbers("--layer-after", after, "2"),
        _parse_numbers("--layer-keep", keep, "64"),
    )
    try:
        return LayerStage(*several, rank.value)
    except OTPruneError as error:
        raise type(error)(f"--layer-rank: {error}") from None


def _parse_numbers(option: str, text: str | None, last: str) -> tuple[float | int, ...] | None:
    if text is None:
        return None
    return tuple(_parse_number(option, part, last) for part in text.split(","))


def pruning(
    method: str,
    keep: float | int | Auto,
    merge: bool = False,
    mass: Mass | None = None,
    alpha: float | None = None,
    distance: bool = False,
    settings: Mapping[str, Enum | str | int | None] | None = None,
) -> Pruning:
    """The arguments of `otprune.prune` that the options ask for; None is an option not given.

    Args:
        method: a name or the class of a user's own file.
        keep, merge, mass, alpha, distance: as for `otprune.prune`.
        settings: the method's own.

    Raises:
        OTPruneError: as `otprune.selectors.by_name`.
    """
    from otprune.selectors import by_name  # torch takes a second; --help needs none

    settings = settings or {}
    for name in settings:
        if name in inspect.signature(by_name).parameters:
            raise OTPruneError(f"--set {name}: this is no setting of a method, see --help")
    see_here(method)
    return by_name(
        method,
        keep,
        merge=merge or None,
        mass=None if mass is None else mass.value,
        alpha=alpha,
        distance=distance or None,
        own=True,
        **{name: _plain(value) for name, value in settings.items()},
    )


def see_here(method: str) -> None:
    """Let a user's own method be imported from the current directory, as `python -m` does."""
    if ":" in method and not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())


def check_alone(selector: Selector) -> None:
    """Raise UnsupportedError if a method needs more than the tokens of an image."""
    from otprune.selectors.gate import check_cues

    check_cues(selector, [], "by select, which has the tokens of an encoder alone (ask has more)")


def _plain(value: Enum | str | int | None) -> object:
    """The value of an enum member; a text that is a number, True or False is converted."""
    if isinstance(value, Enum):
        return value.value
    if value in ("True", "False"):
        return value == "True"
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                return number(value)
    return value


def check_model(model: str | None, tokens: int | None, trust_remote_code: bool) -> None:
    """Refuse what belongs to another model than the one that is asked for.

    Raises:
        OTPruneError: names the option.
    """
    if trust_remote_code and model is None:
        raise OTPruneError("--trust-remote-code belongs to --model: the embedded model has no code")
    if tokens is None:
        return
    if model is not None:
        raise OTPruneError(f"--tokens {tokens} belongs to the embedded model: leave out --model")
    if tokens not in demo.FOLDERS:
        raise OTPruneError(f"--tokens {tokens}: expected {' or '.join(map(str, demo.FOLDERS))}")


def check_encoder(
    encoder: Encoder | None,
    model: str | None,
    tokens: int | None,
    size: int | None,
    device: str,
    dtype: Dtype,
    trust_remote_code: bool,
) -> None:
    """Refuse options that have no effect with, or without, a pretrained encoder.

    Raises:
        OTPruneError: names the option.
    """
    if encoder is None:
        if size is not None:
            raise OTPruneError("--size belongs to --encoder vit-s: a model has its own size")
        check_model(model, tokens, trust_remote_code)
        return
    if model is not None:
        raise OTPruneError("--encoder and --model: give one of them")
    if tokens is not None:
        raise OTPruneError(f"--tokens {tokens} belongs to the embedded model: leave out --encoder")
    given = {
        f"--device {device}": device not in ("auto", "cpu"),
        f"--dtype {dtype.value}": dtype not in (Dtype.auto, Dtype.float32),
        "--trust-remote-code": trust_remote_code,
    }
    for name, there in given.items():
        if there:
            raise OTPruneError(
                f"{name} belongs to a model: --encoder {encoder.value} runs on the CPU in float32"
            )
