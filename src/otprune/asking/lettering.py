"""Drawing text in any script on an image, in a font that has its characters or else in ASCII.

Pillow's own font has only ASCII, and draws other characters as boxes. A text is drawn in the first
font that has all its characters: Pillow's, then DejaVu if matplotlib is installed, then those of
the system. If no font has them all, each character is drawn in the first font that has it, and
characters that no font has are replaced by ASCII.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont, features

# A font's file; empty for Pillow's own.
Font = str
Face = ImageFont.FreeTypeFont | ImageFont.ImageFont

PILLOW: Font = ""
ABSENT = "\U0010ffff"  # no character, so that every font draws its glyph for a missing one
LATIN = dict(
    zip(
        "ßæÆœŒøØłŁđĐðþı‐–—‘’“”«»€×→←≤≥°·•",  # noqa: RUF001
        'ss ae AE oe OE o O l L d D d th i - - - \' \' " " " " EUR x -> <- <= >= deg . *'.split(),
        strict=True,
    )
)
PREFERRED = ("dejavusans", "notosans", "liberationsans", "arial", "helvetica")
PECULIAR = ("bold", "italic", "oblique", "black", "light", "thin", "mono", "condensed", "serif")


def readable(text: str) -> tuple[str, set[str]]:
    """The text with characters that no font has replaced, and the replaced characters.

    Accents are left out (é: e), a symbol becomes its name in brackets, any other character its
    number as Python writes it (\\u4e2d). Invisible characters are dropped.
    """
    out: list[str] = []
    lost: set[str] = set()
    for char in unicodedata.normalize("NFC", text):
        if char.isspace():
            out.append(" ")
        elif unicodedata.category(char) in ("Cc", "Cf") or "\ufe00" <= char <= "\ufe0f":
            continue
        elif _font_for(char) is None:
            lost.add(char)
            out.append(_ascii(char))
        else:
            out.append(char)
    return "".join(out), lost


def length(text: str, size: int) -> float:
    """Width of a text in pixels."""
    return sum(float(face.getlength(part)) for part, face in _runs(text, size))


def write(
    pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: object, size: int
) -> None:
    """Draw one line, the top of its letters at `place`."""
    x, y = place
    baseline = y + round(size * 0.95)
    for part, face in _runs(text, size):
        pen.text((x, baseline), part, colour, face, anchor="ls")  # type: ignore[arg-type]
        x += round(float(face.getlength(part)))


@functools.lru_cache(maxsize=64)
def _face(font: Font, size: int) -> Face:
    return ImageFont.load_default(size) if font == PILLOW else ImageFont.truetype(font, size)


def _runs(text: str, size: int) -> Iterator[tuple[str, Face]]:
    """The text split into parts of one font each; one part if a font has all characters."""
    letters = {char for char in text if not char.isspace()}
    for font in _tried(letters):
        if all(_has(font, char) for char in letters):
            yield text, _face(font, size)
            return
    before = PILLOW
    fonts = []
    for char in text:
        before = before if char.isspace() else (_font_for(char) or PILLOW)
        fonts.append(before)
    for font, group in groupby(zip(fonts, text, strict=True), key=lambda pair: pair[0]):
        yield "".join(char for _, char in group), _face(font, size)


def _tried(letters: set[str]) -> list[Font]:
    """Candidates for a font with all the letters: the first font that has each of them."""
    needed = {_font_for(char) or PILLOW for char in letters} or {PILLOW}
    return [font for font in _known() if font in needed]


@functools.lru_cache(maxsize=4096)
def _font_for(char: str) -> Font | None:
    return next((font for font in _known() if _has(font, char)), None)


@functools.lru_cache(maxsize=65536)
def _has(font: Font, char: str) -> bool:
    if not features.check("raqm") and (
        unicodedata.combining(char) or unicodedata.bidirectional(char) in ("R", "AL")
    ):
        return False  # scripts that need shaping would be drawn wrongly without it
    try:
        drawn, absent = _glyph(font, char), _glyph(font, ABSENT)
    except (OSError, ValueError):  # bitmaps of another size, a damaged file
        return False
    return drawn is not None and drawn != absent


def _glyph(font: Font, char: str) -> tuple[tuple[int, int], bytes] | None:
    mask = _face(font, 24).getmask(char)
    return (mask.size, bytes(mask)) if mask.getbbox() else None


def _ascii(char: str) -> str:
    if char in LATIN:
        return LATIN[char]
    parts = [c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c)]
    if parts and all(c.isascii() for c in parts):
        return "".join(parts)
    if unicodedata.category(char).startswith("S"):
        return f"[{unicodedata.name(char).lower()}]"
    return char.encode("ascii", "backslashreplace").decode()


@functools.lru_cache(maxsize=1)
def _known() -> tuple[Font, ...]:
    """Every font, in order of preference."""
    return (PILLOW, *_dejavu(), *_system())


def _dejavu() -> Iterator[Font]:
    spec = importlib.util.find_spec("matplotlib")  # finds it without importing it
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if file.exists():
            yield str(file)


def _system() -> list[Font]:
    files = {
        str(file)
        for folder in _folders()
        if folder.is_dir()
        for file in folder.rglob("*")
        if file.suffix.lower() in (".ttf", ".otf", ".ttc")
    }
    return sorted(files, key=_rank)


def _rank(file: str) -> tuple[int, int, str]:
    name = Path(file).stem.lower().replace("-", "").replace("regular", "")
    odd = sum(word in name for word in PECULIAR)
    return odd, next((i for i, p in enumerate(PREFERRED) if name == p), len(PREFERRED)), file


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    if sys.platform == "win32":
        own = Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft" / "Windows" / "Fonts"
        return [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", own]
    shared = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"))
    return [*shared, home / ".local" / "share" / "fonts", home / ".fonts"]
