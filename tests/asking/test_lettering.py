"""Text on the overlay: every character in a font that has it, or in ASCII; never a box."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from otprune.asking import lettering
from otprune.asking.lettering import ABSENT, PILLOW, readable

HARD = "caf\u00e9 na\u00efve \u4e2d\u6587 \u2192 \u0394 \u0416 \U0001f525 \u00df"


@pytest.fixture
def fonts(monkeypatch):
    """`fonts(...)`: these and no others are there."""

    def are(*known):
        for cached in (lettering._font_for, lettering._has, lettering._known):
            cached.cache_clear()
        monkeypatch.setattr(lettering, "_dejavu", lambda: iter(known))
        monkeypatch.setattr(lettering, "_system", list)

    yield are
    monkeypatch.undo()
    for cached in (lettering._font_for, lettering._has, lettering._known):
        cached.cache_clear()


@pytest.fixture
def dejavu():
    return next(lettering._dejavu())  # matplotlib's, which tests have


def pixels(text, size=24):
    page = Image.new("L", (900, 60))
    lettering.write(ImageDraw.Draw(page), (5, 5), text, 255, size)
    return np.asarray(page)


def test_without_fonts_what_is_drawn_is_ascii_and_what_was_lost_is_told(fonts):
    fonts()
    text, lost = readable(HARD)
    assert text == "cafe naive \\u4e2d\\u6587 -> \\u0394 \\u0416 [fire] ss"
    assert lost == set(HARD) - set("caf naive ")
    assert readable("Is it red?") == ("Is it red?", set())


def test_a_font_that_has_it_is_used_for_the_whole_text(fonts, dejavu):
    fonts(dejavu)
    text, lost = readable(HARD)
    assert text == HARD.replace("\u4e2d", "\\u4e2d").replace("\u6587", "\\u6587").replace(
        "\U0001f525", "[fire]"
    )
    assert lost == {"\u4e2d", "\u6587", "\U0001f525"}
    faces = {face for _, face in lettering._runs("caf\u00e9", 24)}
    assert [face.path for face in faces] == [dejavu]
    assert [font for _, font in lettering._runs("cafe", 24)] == [lettering._face(PILLOW, 24)]


def test_never_a_box(fonts, dejavu):
    fonts(dejavu)
    boxes = {font: lettering._glyph(font, ABSENT) for font in (PILLOW, dejavu)}
    for part, face in lettering._runs(readable(HARD)[0], 24):
        font = dejavu if getattr(face, "path", "") == dejavu else PILLOW
        for char in part:
            assert char.isspace() or lettering._glyph(font, char) != boxes[font]


def test_what_is_invisible_is_dropped_and_blanks_stay_blanks(fonts):
    fonts()
    assert readable("a\u200db\ufe0f\tc\nd\x00") == ("ab c d", set())
    assert readable("e\u0301") == ("e", {"\u00e9"})  # however it was composed


def test_length_is_that_of_what_is_written(fonts, dejavu):
    fonts(dejavu)
    for text in ("plain", "caf\u00e9", "\u0394\u0416 mixed"):
        drawn = np.flatnonzero(pixels(text).any(axis=0))
        assert drawn[-1] - 5 == pytest.approx(lettering.length(text, 24), abs=4)
    rows = np.flatnonzero(pixels("\u00c9gq").any(axis=1))
    assert rows[0] >= 3
    assert rows[-1] <= 5 + 24 + 8


def test_a_file_that_is_no_font_is_passed_over(fonts, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    fonts(str(broken))
    assert readable("caf\u00e9") == ("cafe", {"\u00e9"})
