"""Figures of a selection in words: what each is, and what it means."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

from otprune.page.answering import Kept
from otprune.selectors import Selection

DISTANCES = {
    "gaussian_w2": (
        "Gaussian distance",
        "Between Gaussians with the second moments of all tokens and of the kept ones: whether the "
        "kept ones spread as all do.",
    ),
    "exact_w2": (
        "Distance, equal mass",
        "What it costs to move all tokens onto the kept ones if each of these takes equally many.",
    ),
    "free_mass_w2": (
        "Distance, free mass",
        "What it costs to move every token onto its nearest kept one: how well the kept ones stand "
        "for the others.",
    ),
}
SCALE = (
    "Distances are squared 2-Wasserstein distances, divided by the mean squared norm of the "
    "tokens: 0 is no loss, and 1 is the distance to a single token of zeros."
)


class Line(NamedTuple):
    """A figure, its value in words, and one line that says what it means."""

    name: str
    value: str
    meaning: str


def lines(selection: Selection, kept: Kept) -> list[Line]:
    """The distances and the certificate."""
    made = []
    for name, (label, meaning) in DISTANCES.items():
        value = getattr(selection, f"{name}_relative")
        made.append(Line(label, "needs POT" if value is None else f"{value:.4f}", meaning))
    return [*made, _certificate(selection, kept)]


def _certificate(selection: Selection, kept: Kept) -> Line:
    name = "Certificate"
    if kept.inside is not None:
        return Line(
            name,
            "none",
            "The method chose among the encoder's kept tokens only, and a proof would not cover "
            "what the encoder dropped.",
        )
    if selection.certificate is None:
        return Line(name, "none", "This method has no proof of how good its choice is.")
    return Line(
        name,
        f"{selection.certificate:.3f}",
        "Proved for this image: the choice has at least this share of the best value that as many "
        "tokens can have under the method's objective.",
    )


def table(selection: Selection, kept: Kept) -> str:
    """The figures in HTML, a line each."""
    rows = "".join(
        f"<tr><th scope='row'>{escape(line.name)}</th><td>{escape(line.value)}</td>"
        f"<td>{escape(line.meaning)}</td></tr>"
        for line in lines(selection, kept)
    )
    return (
        "<table class='otp-figures'><caption>Distances and certificate</caption>"
        "<thead><tr><th scope='col'>Figure</th><th scope='col'>Value</th>"
        f"<th scope='col'>What it means</th></tr></thead><tbody>{rows}</tbody></table>"
        f"<p class='otp-soft'>{SCALE}</p>"
    )


def summary(kept: Kept, note: str = "") -> str:
    """What was kept, in a sentence; `note` says which of several images in a file it is."""
    item = kept.item
    full_prompt = kept.prompt + item.before - item.after
    text = (
        f"{item.after} of {item.before} visual tokens kept ({item.after / item.before:.1%}); "
        f"the prompt has {kept.prompt} tokens instead of {full_prompt}."
    )
    if kept.inside is not None:
        text += f" Inside the encoder: {kept.inside}."
    return f"Of the file's {note}: {text}" if note else text
