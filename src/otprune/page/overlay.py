"""The kept patches of an image as SVG: dropped ones dim, and the cell of each kept one to look at.

Pointing at a patch shows the cell that it belongs to, a click holds it: both are CSS. A script of a
few lines (`POINTED`) says below the image what the cell is; without it the browser does, beside the
pointer. Colours are in the page's style (`style.py`).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image

from otprune.asking.drawing import Grid
from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells

HINT = "Point at a patch, or click on it, to see the patches that go together."
# For an element with pictures: below each, what is pointed at or else held.
POINTED = """
const told = (event) => {
  const figure = event.target.closest?.(".otp-figure");
  const says = figure?.querySelector(".otp-says");
  if (!says) return;
  const away = event.type === "mouseout" || event.type === "focusout";
  const cell = (!away && event.target.closest(".otp-cell"))
    || figure.querySelector(".otp-cell:focus") || figure.querySelector(".otp-held");
  says.textContent = cell ? cell.querySelector("title").textContent : says.dataset.hint;
};
for (const name of ["mouseover", "mouseout", "focusin", "focusout"])
  element.addEventListener(name, told);
"""
SIDE = 640  # the longer side of the image on the page, pixels
QUALITY = 85  # of its JPEG


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it, with the cells of its kept tokens.

    Attributes:
        uri: the image as a data URI.
        width, height: of it, pixels.
        grid: of the tokens; None where they lie in no single grid, which `why` explains.
        kept: indices of the kept tokens, ascending.
        cell: for each token the place in `kept` of the one that it belongs to; empty where no
            cells are shown, as are the masses.
        masses: share of all tokens of each kept one.
        summary: what was kept, in a sentence.
    """

    uri: str
    width: int
    height: int
    grid: Grid | None
    why: str
    kept: tuple[int, ...]
    cell: tuple[int, ...]
    masses: tuple[float, ...]
    summary: str = ""

    def count(self, place: int) -> int:
        """Number of tokens that a kept one stands for, itself among them."""
        return self.cell.count(place)

    def where(self, place: int) -> str:
        """Row and column of a kept token, counted from 1; its number where there is no grid."""
        token = self.kept[place]
        if self.grid is None:
            return f"token {token + 1}"
        row, column = divmod(token, self.grid.columns)
        return f"row {row + 1}, column {column + 1}"

    def says(self, place: int) -> str:
        """What a kept token stands for, in one sentence."""
        count = self.count(place)
        tokens = "1 token, itself" if count == 1 else f"{count} tokens"
        place_ = self.where(place)
        return (
            f"{place_[0].upper()}{place_[1:]} stands for {tokens} of {len(self.cell)}: "
            f"mass {self.masses[place]:.1%}."
        )


def picture(
    image: Image.Image,
    grid: Grid | UnsupportedError,
    kept: Sequence[int],
    cells: Cells | None = None,
    masses: Sequence[float] = (),
    summary: str = "",
) -> Picture:
    """An image with what was kept of it.

    Args:
        grid: of its tokens, or the error that says why there is none.
        summary: what was kept, in a sentence.
    """
    cell = () if cells is None else tuple(cells.cell.tolist())
    why, found = "", None
    if isinstance(grid, UnsupportedError):
        why = str(grid).partition(": leave --")[0]
    elif len(cell) in (0, grid.rows * grid.columns):
        found = grid
    else:
        why = f"{len(cell)} tokens do not fill a grid of {grid.rows} x {grid.columns}"
    shown = image.copy()
    shown.thumbnail((SIDE, SIDE))
    return Picture(
        uri=_uri(shown),
        width=shown.width,
        height=shown.height,
        grid=found,
        why=why,
        kept=tuple(kept),
        cell=cell,
        masses=tuple(masses),
        summary=summary,
    )


def svg(shown: Picture, name: str, held: int | None = None, hint: str = HINT) -> str:
    """The picture in HTML.

    Args:
        name: what it shows, for those who do not see it.
        held: place of the kept token whose cell is highlighted; None: the one pointed at.
        hint: below, while no cell is.
    """
    if shown.grid is None:
        return (
            f"<figure class='otp-figure'><img src='{shown.uri}' alt='{escape(name, True)}'>"
            f"<figcaption class='otp-soft'>Not drawn: {escape(shown.why)}.</figcaption></figure>"
        )
    boxes = _boxes(shown.grid, shown.width, shown.height)
    keeps = set(shown.kept)
    dropped = "".join(_box(box) for i, box in enumerate(boxes) if i not in keeps)
    of_cell: list[list[int]] = [[] for _ in shown.kept]
    for token, place in enumerate(shown.cell):
        of_cell[place].append(token)
    groups = []
    if not shown.cell:
        area = "".join(_box(boxes[token]) for token in shown.kept)
        groups.append(f"<path class='otp-kept' d='{area}'/>")
    for place, tokens in enumerate(of_cell if shown.cell else ()):
        state = " otp-held" if place == held else ""
        area = "".join(_box(boxes[token]) for token in tokens)
        says = escape(shown.says(place))
        groups.append(
            # Focus comes with a click; the list of kept tokens is for the keyboard.
            f"<g class='otp-cell{state}' tabindex='-1'><title>{says}</title>"
            f"<path class='otp-area' d='{area}'/>"
            f"<path class='otp-kept' d='{_box(boxes[shown.kept[place]])}'/></g>"
        )
    left, top, right, bottom = shown.grid.region
    unseen = ""
    if max(left, top, 1 - right, 1 - bottom) > 0.002:
        seen = (
            f"M{boxes[0][0]:g} {boxes[0][1]:g}H{boxes[-1][2]:g}V{boxes[-1][3]:g}H{boxes[0][0]:g}z"
        )
        whole = f"M0 0H{shown.width}V{shown.height}H0z"
        unseen = f"<path class='otp-unseen' fill-rule='evenodd' d='{whole}{seen}'/>"
    return (
        "<figure class='otp-figure'>"
        f"<svg class='otp-picture' viewBox='0 0 {shown.width} {shown.height}' role='img' "
        f"aria-label='{escape(name, True)}'>"
        f"<image href='{shown.uri}' width='{shown.width}' height='{shown.height}'/>"
        f"{unseen}<path class='otp-dropped' d='{dropped}'/>{''.join(groups)}</svg>"
        f"{_caption(shown, held, hint)}</figure>"
    )


def _caption(shown: Picture, held: int | None, hint: str) -> str:
    if not shown.cell:
        return ""
    says = hint if held is None else shown.says(held)
    role = "" if held is None else " role='status'"
    return (
        f"<figcaption class='otp-soft otp-says'{role} data-hint='{escape(hint)}'>{escape(says)}"
        "</figcaption>"
    )


Box = tuple[float, float, float, float]


def _boxes(grid: Grid, width: int, height: int) -> list[Box]:
    """Each token's box, row by row, cut off at the image's border."""

    def edges(low: float, high: float, parts: int, length: int) -> list[float]:
        places = (low + (high - low) * i / parts for i in range(parts + 1))
        return [round(min(max(place * length, 0), length), 1) for place in places]

    left, top, right, bottom = grid.region
    xs, ys = edges(left, right, grid.columns, width), edges(top, bottom, grid.rows, height)
    return [
        (xs[column], ys[row], xs[column + 1], ys[row + 1])
        for row in range(grid.rows)
        for column in range(grid.columns)
    ]


def _box(box: Box) -> str:
    return f"M{box[0]:g} {box[1]:g}H{box[2]:g}V{box[3]:g}H{box[0]:g}z"


def _uri(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
