"""The overlay: each photograph beside a copy of it in which dropped patches are dimmed.

A kept patch has the pixels of the photograph at the panel's size, except where its number is
written. A dropped patch is darkened and nearly grey. Regions that the model did not see are faded
to the background colour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw

from otprune.asking import lettering
from otprune.errors import OTPruneError

PANEL = 720  # width of a panel of a landscape, height of one of a portrait, pixels
TALLEST = 2 * PANEL  # a taller panel is folded
FOLD, FOLDS = 10, 16  # pixels between the parts of a folded panel, and the most parts
TITLE, SMALL = 24, 17  # font sizes
NUMBER = 24  # patches smaller than this, in pixels, get no number
MARGIN, GAP = 28, 20
PAPER, INK, SOFT, LINE = (250, 249, 246), (28, 30, 34), (112, 116, 122), (255, 255, 255)
DIM, COLOUR = 0.36, 0.25  # share of a dropped patch's brightness and of its colour that stays
FINEST = 8  # patches smaller than this, in pixels, get no line
LABEL = (20, 22, 26)  # background of a number
SAMPLE = 26  # height of the legend's samples
FADE = 0.85  # share of paper in what was cropped away

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Grid:
    """The grid of the tokens, row by row over a region of the image.

    Attributes:
        rows, columns: of tokens.
        region: left, top, right, bottom as fractions of the image's width and height; (0, 0, 1, 1)
            is the whole image. It is smaller if the processor crops and larger if it pads.
    """

    rows: int
    columns: int
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """One photograph of the overlay.

    Attributes:
        kept: indices of the kept tokens, row by row in `grid`.
        title: above both panels; may be empty.
        captions: under the left and the right panel, each a light line and a strong line.
        stands: the number to draw on each kept patch, the tokens that it stands for; may be empty.
    """

    image: Image.Image
    grid: Grid
    kept: Sequence[int]
    title: str
    captions: tuple[tuple[str, str], tuple[str, str]]
    stands: Sequence[float] = ()

    @property
    def cropped(self) -> bool:
        """Whether a part of the photograph was cropped away."""
        left, top, right, bottom = self.grid.region
        return max(left, top, 1 - right, 1 - bottom) > 0.002


def check_target(target: Path, photos: Sequence[Path]) -> None:
    """Refuse an output file that cannot be written, before anything is computed.

    Raises:
        OTPruneError: no such folder, a format that Pillow cannot write, or one of the photographs.
    """
    if target.is_dir():
        raise OTPruneError(f"--overlay {target} is a folder: give a file in it, like overlay.png")
    if not target.parent.is_dir():
        raise OTPruneError(f"--overlay {target}: there is no folder {target.parent}")
    format_ = Image.registered_extensions().get(target.suffix.lower())
    if format_ not in Image.SAVE:
        raise OTPruneError(f"--overlay {target}: images are written as .png, .jpg or .webp")
    if target.exists() and any(photo.exists() and target.samefile(photo) for photo in photos):
        raise OTPruneError(f"--overlay {target} would overwrite the photograph: give another name")
    check_folder("--overlay", target.parent)


def check_folder(option: str, folder: Path) -> None:
    """Refuse a folder that cannot be written in.

    Raises:
        OTPruneError: with the reason.
    """
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as cause:
        raise OTPruneError(
            f"{option}: cannot write in {folder}: {cause.strerror or cause}"
        ) from cause


def save(rows: Sequence[Row], target: Path, meaning: str = "") -> set[str]:
    """Draw and write the overlay; returns the characters that no font has (written in ASCII).

    Args:
        meaning: what the numbers on kept patches mean, for the legend.

    Raises:
        OTPruneError: it cannot be written.
    """
    page, lost = draw(rows, meaning)
    try:
        page.save(target)
    except (OSError, ValueError) as cause:  # a full disk, or more pixels than the format holds
        size = f"{page.width} x {page.height} pixels"
        why = getattr(cause, "strerror", None) or cause
        raise OTPruneError(f"cannot write {target} ({size}): {why}") from cause
    return lost


def draw(rows: Sequence[Row], meaning: str = "") -> tuple[Image.Image, set[str]]:
    """The overlay in RGB, a row for each photograph and a legend; characters that no font has."""
    column = _column(rows)
    lost: set[str] = set()
    drawn = [_row(row, column, lost) for row in rows]
    drawn.append(_legend(rows, 2 * column + GAP, meaning))
    page = Image.new("RGB", (drawn[0].width, sum(part.height for part in drawn)), PAPER)
    top = 0
    for part in drawn:
        page.paste(part, (0, top))
        top += part.height
    return page, lost


def _column(rows: Sequence[Row]) -> int:
    """Width of both columns: `PANEL`, or if all images are portraits that of the widest."""
    sizes = [row.image.size for row in rows]
    if any(width >= height for width, height in sizes):
        return PANEL
    # Captions need room, however narrow the images are.
    return max(PANEL // 2, *(round(PANEL * width / height) for width, height in sizes))


def panel(image: Image.Image, column: int = PANEL) -> Image.Image:
    """The photograph at the width of its column, or of a part of it where it is folded."""
    parts = _parts(image.size, column)
    width = (column - FOLD * (parts - 1)) // parts
    scale = min(width / image.width, parts * TALLEST / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _parts(size: tuple[int, int], column: int) -> int:
    """The number of parts that a tall image is folded into to fit its column: mostly 1."""
    ratio = size[1] / size[0]
    for parts in range(1, FOLDS):
        if ratio * (column - FOLD * (parts - 1)) / parts <= parts * TALLEST:
            return parts
    return FOLDS


def _folded(shown: Image.Image, parts: int) -> Image.Image:
    """A panel's parts side by side, the top part at the left."""
    if parts == 1:
        return shown
    height = -(-shown.height // parts)
    page = Image.new("RGB", (parts * (shown.width + FOLD) - FOLD, height), PAPER)
    for part in range(parts):
        top = part * height
        cut = shown.crop((0, top, shown.width, min(top + height, shown.height)))
        page.paste(cut, (part * (shown.width + FOLD), 0))
    return page


def shade(photo: Image.Image, grid: Grid, kept: Sequence[int]) -> Image.Image:
    """A panel with dropped patches dimmed, and thin lines around the kept ones."""
    grey = photo.convert("L").convert("RGB")
    dropped = Image.blend(grey, photo, COLOUR).point(lambda value: value * DIM)
    unseen = Image.blend(photo, Image.new("RGB", photo.size, PAPER), FADE)
    cells = _cells(grid, photo.size)
    out = unseen
    if cells:
        seen = (cells[0][0], cells[0][1], cells[-1][2], cells[-1][3])
        out.paste(dropped.crop(seen), seen[:2])
    for index in kept:
        out.paste(photo.crop(cells[index]), cells[index][:2])
    _outline(out, grid, cells, set(kept))
    return out


def _cells(grid: Grid, size: tuple[int, int]) -> list[Box]:
    """Each token's box in a panel, row by row; they touch and do not overlap."""

    def edges(low: float, high: float, parts: int, length: int) -> list[int]:
        places = (low + (high - low) * i / parts for i in range(parts + 1))
        return [min(max(round(place * length), 0), length) for place in places]

    left, top, right, bottom = grid.region
    xs = edges(left, right, grid.columns, size[0])
    ys = edges(top, bottom, grid.rows, size[1])
    return [(x0, y0, x1, y1) for y0, y1 in pairwise(ys) for x0, x1 in pairwise(xs)]


def _outline(out: Image.Image, grid: Grid, cells: list[Box], kept: set[int]) -> None:
    """Lines on the dropped side of every border between dropped and kept."""
    pen = ImageDraw.Draw(out)
    for index, (x0, y0, x1, y1) in enumerate(cells):
        if index in kept or min(x1 - x0, y1 - y0) < FINEST:
            continue
        column = index % grid.columns
        if column > 0 and index - 1 in kept:
            pen.line((x0, y0, x0, y1 - 1), LINE)
        if column < grid.columns - 1 and index + 1 in kept:
            pen.line((x1 - 1, y0, x1 - 1, y1 - 1), LINE)
        if index - grid.columns in kept:
            pen.line((x0, y0, x1 - 1, y0), LINE)
        if index + grid.columns in kept:
            pen.line((x0, y1 - 1, x1 - 1, y1 - 1), LINE)


def number(shown: Image.Image, grid: Grid, kept: Sequence[int], stands: Sequence[float]) -> None:
    """Write on each kept patch how many tokens it stands for, if the patches are large enough."""
    cells = _cells(grid, shown.size)
    pen = ImageDraw.Draw(shown)
    for index, value in zip(kept, stands, strict=True):
        x0, y0, x1, y1 = cells[index]
        side = _side(cells[index])
        if side < NUMBER:
            continue
        size, text = min(max(side // 3, 12), 20), f"{value:.0f}"
        width = round(lettering.length(text, size)) + 6
        pen.rectangle((x0, y0, min(x0 + width, x1 - 1), min(y0 + size + 2, y1 - 1)), LABEL)
        lettering.write(pen, (x0 + 3, y0), text, PAPER, size)


def numbered(row: Row, column: int) -> bool:
    """Whether `number` writes anything: whether a kept patch is large enough."""
    if not row.stands:
        return False
    cells = _cells(row.grid, panel(row.image, column).size)
    return any(_side(cells[index]) >= NUMBER for index in row.kept)


def _side(cell: Box) -> int:
    return min(cell[2] - cell[0], cell[3] - cell[1])


def _row(row: Row, column: int, lost: set[str]) -> Image.Image:
    def lines(text: str, size: int, width: int) -> list[str]:
        drawn, missing = lettering.readable(text)
        lost.update(missing)
        return wrap(drawn, size, width)

    photo = panel(row.image, column)
    shown = shade(photo, row.grid, row.kept)
    if row.stands:
        number(shown, row.grid, row.kept, row.stands)
    parts = _parts(row.image.size, column)
    photo, shown = _folded(photo, parts), _folded(shown, parts)
    folded = f" (in {parts} parts, from left to right)" if parts > 1 else ""
    texts = [
        (lines(soft + folded, SMALL, column), lines(strong, TITLE, column))
        for soft, strong in row.captions
    ]
    title = lines(row.title, TITLE, 2 * column + GAP)

    top = MARGIN + 34 * len(title) + (8 if title else 0)
    under = max(24 * len(soft) + 32 * len(strong) for soft, strong in texts)
    page = Image.new("RGB", (2 * MARGIN + 2 * column + GAP, top + photo.height + 14 + under), PAPER)
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(title):
        lettering.write(pen, (MARGIN, MARGIN + 34 * i - 4), line, INK, TITLE)
    for i, (image, (soft, strong)) in enumerate(zip((photo, shown), texts, strict=True)):
        x = MARGIN + i * (column + GAP)
        page.paste(image, (x, top))
        y = top + photo.height + 14
        for line in soft:
            lettering.write(pen, (x, y), line, SOFT, SMALL)
            y += 24
        for line in strong:
            lettering.write(pen, (x, y), line, INK, TITLE)
            y += 32
    return page


def _legend(rows: Sequence[Row], width: int, meaning: str) -> Image.Image:
    """A sample of each shade with its meaning, and the meaning of the numbers."""
    sample = Image.linear_gradient("L").rotate(90).resize((SAMPLE * 2, SAMPLE)).convert("RGB")
    sample = Image.blend(sample, Image.new("RGB", sample.size, (60, 130, 190)), 0.5)
    entries = [(sample, "kept"), (shade(sample, Grid(1, 1), []), "dropped")]
    if any(row.cropped for row in rows):
        unseen = Image.blend(sample, Image.new("RGB", sample.size, PAPER), FADE)
        entries.append((unseen, "cut away by the model's processor"))
    if meaning and any(numbered(row, (width - GAP) // 2) for row in rows):
        box = sample.copy()
        number(box, Grid(1, 1), [0], [9])
        entries.append((box, meaning))
    placed: list[tuple[int, int, Image.Image, str]] = []
    x = y = 0
    for image, text in entries:
        line = _fit(text, SMALL, width - image.width - 8)
        room = image.width + 8 + round(lettering.length(line, SMALL))
        if x and x + room > width:
            x, y = 0, y + 32
        placed.append((x, y, image, line))
        x += room + 28
    page = Image.new("RGB", (2 * MARGIN + width, GAP + y + SAMPLE + MARGIN), PAPER)
    pen = ImageDraw.Draw(page)
    for x, y, image, line in placed:
        page.paste(image, (MARGIN + x, GAP + y))
        lettering.write(pen, (MARGIN + x + image.width + 8, GAP + y + 2), line, SOFT, SMALL)
    return page


def wrap(text: str, size: int, width: int, most: int = 4) -> list[str]:
    """At most `most` lines of at most `width` pixels; a longer text is cut and ends in dots."""
    lines: list[str] = []
    for word in text.split():
        # Some scripts have no spaces: such a word is broken anywhere.
        first, *rest = _broken(word, size, width)
        longer = f"{lines[-1]} {first}" if lines else first
        if lines and lettering.length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(first)
        lines += rest
    if len(lines) > most:
        lines = [*lines[: most - 1], _fit(lines[most - 1] + " ...", size, width)]
    return lines


def _broken(word: str, size: int, width: int) -> list[str]:
    parts = [""]
    for char in word:
        if parts[-1] and lettering.length(parts[-1] + char, size) > width:
            parts.append("")
        parts[-1] += char
    return parts


def _fit(line: str, size: int, width: int) -> str:
    while len(line) > 4 and lettering.length(line, size) > width:
        line = line.removesuffix("...")[:-1] + "..."
    return line
