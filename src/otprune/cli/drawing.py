"""The picture of what was kept: each photograph beside itself, dropped patches dimmed.

Pillow only. What it draws is exact: a kept patch has the pixels of the photograph (at the panel's
size), a dropped one is darkened and nearly grey, and what the model never saw is faded to paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from otprune.errors import OTPruneError

PANEL = 720  # longer side of a panel, pixels
MARGIN, GAP = 28, 20
PAPER, INK, SOFT, LINE = (250, 249, 246), (28, 30, 34), (112, 116, 122), (255, 255, 255)
DIM, COLOUR = 0.36, 0.25  # of a dropped patch's brightness and colour, what stays
FINEST = 8  # patches smaller than this, in pixels, get no line
FADE = 0.85  # of what was cropped away, how much becomes paper

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Grid:
    """Tokens row by row over a region of the picture.

    Attributes:
        rows, columns: of tokens.
        region: left, top, right, bottom as shares of the picture's width and height; (0, 0, 1, 1)
            is all of it. Smaller where the processor crops, beyond it where it pads.
    """

    rows: int
    columns: int
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Row:
    """One photograph in the picture.

    Attributes:
        kept: indices of the kept tokens, row by row in `grid`.
        title: above both panels; may be empty.
        captions: under the left and the right panel, a soft line and a strong one each.
    """

    picture: Image.Image
    grid: Grid
    kept: Sequence[int]
    title: str
    captions: tuple[tuple[str, str], tuple[str, str]]


def check_target(target: Path, photos: Sequence[Path]) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        OTPruneError: no such folder, a format that Pillow cannot write, or one of the photographs.
    """
    if target.is_dir():
        raise OTPruneError(f"--overlay {target} is a folder: give a file in it, like overlay.png")
    if not target.parent.is_dir():
        raise OTPruneError(f"--overlay {target}: there is no folder {target.parent}")
    format_ = Image.registered_extensions().get(target.suffix.lower())
    if format_ not in Image.SAVE:
        raise OTPruneError(f"--overlay {target}: pictures are written as .png, .jpg or .webp")
    if target.exists() and any(target.samefile(photo) for photo in photos):
        raise OTPruneError(f"--overlay {target} would overwrite the photograph: give another name")


def save(rows: Sequence[Row], target: Path) -> None:
    """Draw and write."""
    try:
        draw(rows).save(target)
    except OSError as cause:
        raise OTPruneError(f"cannot write {target}: {cause.strerror or cause}") from cause


def draw(rows: Sequence[Row]) -> Image.Image:
    """One picture, RGB, a row for each photograph; both columns begin at the same place in all."""
    # However narrow the photographs, captions need room.
    column = max([PANEL // 2, *(panel(row.picture).width for row in rows)])
    drawn = [_row(row, column) for row in rows]
    height = sum(part.height for part in drawn) + MARGIN
    page = Image.new("RGB", (drawn[0].width, height), PAPER)
    top = 0
    for part in drawn:
        page.paste(part, (0, top))
        top += part.height
    return page


def panel(picture: Image.Image) -> Image.Image:
    """The photograph at the size of a panel."""
    scale = PANEL / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def shade(photo: Image.Image, grid: Grid, kept: Sequence[int]) -> Image.Image:
    """A panel with its dropped patches dimmed, and a fine line around those that were kept."""
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


def _row(row: Row, column: int) -> Image.Image:
    photo = panel(row.picture)
    shown = shade(photo, row.grid, row.kept)
    blocks = [_wrap(soft, _font(17), column) for soft, _ in row.captions]
    strong = [_wrap(text, _font(24), column) for _, text in row.captions]
    title = _wrap(row.title, _font(24), 2 * column + GAP) if row.title else []

    top = MARGIN + 34 * len(title) + (8 if title else 0)
    under = max(24 * len(a) + 32 * len(b) for a, b in zip(blocks, strong, strict=True))
    page = Image.new("RGB", (2 * MARGIN + 2 * column + GAP, top + photo.height + 14 + under), PAPER)
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(title):
        pen.text((MARGIN, MARGIN + 34 * i - 4), line, INK, _font(24))
    for i, image in enumerate((photo, shown)):
        x = MARGIN + i * (column + GAP)
        page.paste(image, (x, top))
        y = top + photo.height + 14
        for line in blocks[i]:
            pen.text((x, y), line, SOFT, _font(17))
            y += 24
        for line in strong[i]:
            pen.text((x, y), line, INK, _font(24))
            y += 32
    return page


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most: int = 4
) -> list[str]:
    """Lines of at most `width` pixels; what does not fit `most` of them ends in dots."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " ..."]
    return [_fit(line, font, width) for line in lines]


def _fit(line: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while len(line) > 4 and font.getlength(line) > width:
        line = line.removesuffix("...")[:-1] + "..."
    return line
