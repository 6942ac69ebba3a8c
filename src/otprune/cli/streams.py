"""Options of `otprune watch` as selectors, times and sources."""

from __future__ import annotations

import inspect
import math
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from otprune import demo
from otprune.cli.parsing import plain, pruning, see_here, with_settings
from otprune.errors import MissingDependencyError, OTPruneError

SAMPLE = "sample"  # the clip in the package
RATE = 16  # tokens a frame
_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "m": 60.0, "min": 60.0, "h": 3600.0}


def source(word: str) -> str | int:
    """What `otprune.frames` takes: a camera's number as such, the sample clip by its short name.

    A file of that name comes first.
    """
    if os.path.exists(word):
        return word
    if word == SAMPLE:
        return str(demo.CLIP)
    return int(word) if re.fullmatch(r"\d+", word) else word


def parse_time(option: str, text: str | None) -> float | None:
    """Seconds of an option such as 2s, 500ms, 1.5 or 2m; None is an option not given.

    Raises:
        OTPruneError: it is none of these, or not more than 0.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip())
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise OTPruneError(f"{option} {text}: expected a time more than 0, like 2s, 500ms or 1m")
    return float(found[1]) * _UNITS[found[2]]


def asks_every(text: str | None, on_change: bool) -> float | None:
    """Seconds between answers; None for an answer whenever tokens were kept.

    Raises:
        OTPruneError: both are given, or the time is none.
    """
    if text is not None and on_change:
        raise OTPruneError("--every and --on-change: give one of them")
    return parse_time("--every", text)


def stream_selector(method: str, rate: float | None, settings: list[str] | None) -> Any:
    """The selector of a session.

    Args:
        method: stream, fixed-camera, dtd or uniform; or a method for single images, which then
            chooses in each frame by itself.
        rate: tokens a frame; None: `RATE`.
        settings: NAME=VALUE each.

    Raises:
        OTPruneError: no such method or setting, or a value is wrong.
    """
    from otprune import streaming  # torch takes a second; --help needs none
    from otprune.selectors.gate import check_cues
    from otprune.selectors.named import RECOMMENDED, near
    from otprune.selectors.registry import METHODS

    if rate is not None and not 0 < rate < math.inf:
        raise OTPruneError(f"--rate {rate:g}: expected a number of tokens, more than 0")
    kinds: dict[str, Any] = {
        "stream": streaming.StreamSelector,
        "fixed-camera": streaming.FixedCameraSelector,
        "dtd": streaming.DTD,
        "uniform": streaming.UniformStream,
    }
    own: dict[str, Any] = {
        name: plain(value) for name, value in with_settings({}, settings).items()
    }
    if "rate" in own:
        raise OTPruneError("--set rate: this is --rate")
    if method in kinds:
        able = set(inspect.signature(kinds[method]).parameters)
        if "rate" in able:
            own["rate"] = RATE if rate is None else rate
        elif rate is not None:
            raise OTPruneError(f"--rate {rate:g}: {method} keeps what changed, and has no rate")
        for name in own:
            if name not in able:
                raise OTPruneError(f"--set {name}: {method} has {', '.join(sorted(able))}")
        return kinds[method](**own)
    if method == RECOMMENDED:
        raise OTPruneError(
            "--method recommended merges and weighs tokens, which a session does not: name another"
        )
    if ":" not in method and method not in METHODS:
        raise OTPruneError(f"--method {method}: {near(method, (*kinds, *METHODS))}")
    keep = RATE if rate is None else int(rate)
    if rate is not None and keep != rate:
        raise OTPruneError(f"--rate {rate:g}: {method} keeps a whole number of each frame")
    see_here(method)
    selector = pruning(method, keep, settings=own)["selector"]
    check_cues(selector, [], "by watch, which has the tokens of a frame alone")
    return selector


def check_files(
    source: str | int, record: Path | None, save: Path | None, resume: Path | None
) -> None:
    """Refuse files that cannot be written or read, before anything is computed.

    Raises:
        OTPruneError: names the option.
        MissingDependencyError: `--record` without PyAV.
    """
    from otprune.asking.drawing import check_folder

    if resume is not None and not resume.is_file():
        raise OTPruneError(f"--resume {resume}: there is no such file")
    if save is not None:
        if save.is_dir() or not save.parent.is_dir():
            raise OTPruneError(f"--save {save}: expected a file in a folder that is there")
        check_folder("--save", save.parent)
        if _is_part_of(save, source):
            raise OTPruneError(f"--save {save} would overwrite the source: give another name")
    if record is None:
        return
    if find_spec("av") is None:
        raise MissingDependencyError("--record needs PyAV: pip install 'otprune[video]'")
    from otprune.cli.recording import check_target

    check_target(record, source)
    for option, other in (("--save", save), ("--resume", resume)):
        if other is not None and other.resolve() == record.resolve():
            raise OTPruneError(f"--record and {option} name one file, {record}: give two names")


def _is_part_of(file: Path, source: str | int) -> bool:
    """Whether a file is the source, or one of its images."""
    from otprune.reading.images import files_of

    if isinstance(source, int) or not file.exists():
        return False
    files = files_of(source) or [Path(source)]
    return any(other.exists() and file.samefile(other) for other in files)


def forgetting(name: str) -> Any:
    """`forget` of a session: "oldest", "replaced", or a method that keeps three quarters.

    Raises:
        OTPruneError: no such method, or it needs more than tokens.
    """
    if name in ("oldest", "replaced"):
        return name
    from otprune.selectors.gate import check_cues

    selector = pruning(name, _STAYS)["selector"]
    check_cues(selector, [], "by --forget, which has the tokens alone")
    return selector


_STAYS = 0.75
