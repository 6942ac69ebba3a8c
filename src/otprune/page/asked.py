"""What the page shows of an image and a question, step by step, for one visitor's settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

from PIL.Image import Image

from otprune.asking.drawing import Grid
from otprune.asking.grid import grid_of
from otprune.asking.images import Opened, Photo
from otprune.asking.models import Loaded, prompt
from otprune.asking.words import check_question
from otprune.errors import OTPruneError, UnsupportedError
from otprune.page import charts, figures, overlay
from otprune.page.answering import Kept, answer, answers, measured, pruned_answer
from otprune.page.charts import Point
from otprune.page.overlay import Picture
from otprune.page.timing import REPEATS, times
from otprune.page.wanted import Wanted, check_methods

MOST = 4  # methods in a comparison
KEEPS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # of a sweep


@dataclass(frozen=True)
class Shown:
    """What the page shows of a question so far.

    Attributes:
        doing: what is being done; empty at the end.
        full, pruned: the answers.
        picture: the kept patches; None before the pruned answer is there.
        figures: distances and certificate in HTML.
        times: the bars in HTML.
    """

    doing: str = "Answering"
    full: str = ""
    pruned: str = ""
    picture: Picture | None = None
    figures: str = ""
    times: str = ""


def read(path: str | None) -> Opened:
    """A visitor's image, and which of several in the file it is.

    Raises:
        OTPruneError: there is none, or it cannot be read; without folders of this machine.
    """
    if not path:
        raise OTPruneError(
            "There is no image: drop one, take one with the camera, or use a sample."
        )
    try:
        return Photo(path).open()
    except OTPruneError as error:
        raise type(error)(str(error).replace(path, Path(path).name)) from error


def check_words(question: str, loaded: Loaded) -> None:
    """Refuse an empty question, and one that the embedded model has no words for.

    Raises:
        OTPruneError: with the advice of the command line.
    """
    if not question.strip():
        raise OTPruneError('The question is empty: ask one, such as "How many things are there?"')
    check_question(question, loaded.embedded)


def ask(loaded: Loaded, path: str | None, question: str, wanted: Wanted) -> Iterator[Shown]:
    """Both answers as they come, then the kept patches, then distances, then times.

    Raises:
        OTPruneError: the image, the question or the settings are wrong.
    """
    check_words(question, loaded)
    image, note = read(path)
    shown = Shown()
    yield shown
    kept: Kept | None = None
    for both in answers(loaded, image, question, wanted):
        shown = replace(shown, full=both.full, pruned=both.pruned)
        if kept is None and both.kept is not None:
            kept = both.kept
            shown = replace(shown, picture=pictured(loaded, image, question, kept, note))
        yield shown
    assert kept is not None
    yield replace(shown, doing="Measuring distances")
    selection = measured(loaded, image, question, wanted, kept)
    shown = replace(shown, doing="Measuring times", figures=figures.table(selection, kept))
    yield shown
    full, cut = times(loaded, image, question, wanted)
    yield replace(shown, doing="", times=charts.time_bar(full, cut, REPEATS))


def pictured(loaded: Loaded, image: Image, question: str, kept: Kept, note: str = "") -> Picture:
    """The kept patches of an image; `note` says which of several in a file it is."""
    return overlay.picture(
        image,
        grid(loaded, image, question),
        kept.item.indices.tolist(),
        kept.cells,
        kept.item.masses.tolist(),
        figures.summary(kept, note),
    )


def grid(loaded: Loaded, image: Image, question: str) -> Grid | UnsupportedError:
    """Where the tokens lie on the image, or why that is not known."""
    inputs = prompt(loaded, image, question)
    try:
        return grid_of(loaded.name, loaded.model, loaded.processor, inputs, image.size)
    except UnsupportedError as error:
        return error


def compare(
    loaded: Loaded, path: str | None, question: str, wanted: Wanted, methods: Sequence[str]
) -> Iterator[str]:
    """The kept patches and answers of several methods at one keep, in HTML, method by method.

    A method that cannot be used has its error instead.

    Raises:
        OTPruneError: the image, the question or the number of methods is wrong.
    """
    check_methods(list(methods), MOST)
    check_words(question, loaded)
    image, note = read(path)
    full = answer(loaded, image, question)
    cards: list[str] = []
    head = charts.full_answer(full, note)
    yield _row(head, cards)
    for method in methods:
        cards.append(_card(loaded, image, question, wanted.by(method), full))
        yield _row(head, cards)


def _card(loaded: Loaded, image: Image, question: str, wanted: Wanted, full: str) -> str:
    name = escape(wanted.method)
    try:
        text, kept = pruned_answer(loaded, image, question, wanted)
        selection = measured(loaded, image, question, wanted, kept)
    except OTPruneError as error:
        return f"<section class='otp-card'><h3>{name}</h3>{problem(error)}</section>"
    drawn = overlay.svg(
        pictured(loaded, image, question, kept), f"What {wanted.method} keeps", hint=""
    )
    lines = "".join(
        f"<li>{escape(line.name)}: <b>{escape(line.value)}</b></li>"
        for line in figures.lines(selection, kept)
    )
    other = "" if text == full else " <span class='otp-soft'>(another answer)</span>"
    return (
        f"<section class='otp-card'><h3>{name}</h3>{drawn}"
        f"<p class='otp-answer'>{escape(text)}{other}</p>"
        f"<p class='otp-soft'>{kept.item.after} of {kept.item.before} tokens</p>"
        f"<ul class='otp-plain'>{lines}</ul></section>"
    )


def _row(head: str, cards: Sequence[str]) -> str:
    return f"{head}<div class='otp-cards'>{''.join(cards)}</div>"


@dataclass(frozen=True)
class Swept:
    """A sweep so far.

    Attributes:
        full: the answer with all tokens.
        note: which of several images in the file it is about; empty for one image.
        points: a keep each.
    """

    full: str
    note: str
    points: tuple[Point, ...] = ()

    def html(self) -> str:
        """The curve and its table."""
        table = charts.curve_table(self.points)
        return charts.curve(self.points) + charts.full_answer(self.full, self.note) + table


def sweep(
    loaded: Loaded,
    path: str | None,
    question: str,
    wanted: Wanted,
    keeps: Sequence[float] = KEEPS,
) -> Iterator[Swept]:
    """The answer and the distances at several keeps, one after the other.

    Raises:
        OTPruneError: the image, the question or the settings are wrong.
    """
    check_words(question, loaded)
    image, note = read(path)
    full = answer(loaded, image, question)
    swept = Swept(full, note)
    yield swept
    for keep in keeps:
        here = wanted.keeping(keep)
        text, kept = pruned_answer(loaded, image, question, here)
        selection = measured(loaded, image, question, here, kept)
        distances = {name: getattr(selection, f"{name}_relative") for name in figures.DISTANCES}
        point = Point(keep, kept.item.after, text, text == full, distances)
        swept = replace(swept, points=(*swept.points, point))
        yield swept


def problem(error: object) -> str:
    """An error as a message in the page."""
    return f"<div class='otp-problem' role='alert'>{escape(str(error))}</div>"
