"""The overlay: kept patches are the photograph, dropped ones dark, unseen ones paper."""

import numpy as np
import pytest
from PIL import Image

from otprune import OTPruneError
from otprune.asking import drawing
from otprune.asking.drawing import PANEL, PAPER, TALLEST, Grid, Row, draw, number, panel, shade
from tests.untrained import scene


def luma(pixels):
    return float(np.asarray(pixels, dtype=float).mean())


def test_kept_is_the_photograph_and_dropped_is_darker():
    photo = panel(scene(360, 240))
    kept = [0, 5, 17, 23]
    out, before = np.asarray(shade(photo, Grid(4, 6), kept)), np.asarray(photo)
    assert out.shape == before.shape == (480, 720, 3)
    for index in range(24):
        row, column = divmod(index, 6)
        cell = np.s_[row * 120 : (row + 1) * 120, column * 120 : (column + 1) * 120]
        inner = np.s_[
            row * 120 + 1 : (row + 1) * 120 - 1, column * 120 + 1 : (column + 1) * 120 - 1
        ]
        if index in kept:
            assert (out[cell] == before[cell]).all()
        else:
            assert (out[inner] <= before[inner].max(axis=-1, keepdims=True) * 0.5).all()


def test_what_the_model_never_saw_is_faded():
    photo = panel(scene(400, 200))
    out, before = (
        np.asarray(shade(photo, Grid(2, 2, (0.25, 0.0, 0.75, 1.0)), [0])),
        np.asarray(photo),
    )
    assert luma(out[:, :180]) > 200
    assert luma(out[:, 540:]) > 200
    assert (out[:180, 180:360] == before[:180, 180:360]).all()
    assert luma(out[180:, 180:540]) < luma(before[180:, 180:540]) / 2


def test_grid_beyond_the_image():
    photo = panel(scene(300, 150))
    out = np.asarray(shade(photo, Grid(4, 4, (0.0, -0.5, 1.0, 1.5)), range(16)))
    assert (out == np.asarray(photo)).all()


SIZES = [(1, 1), (2, 900), (900, 2), (50, 40), (3000, 2000), (300, 1200), (100, 1600)]


def row(*size, **more):
    captions = (("soft", "an answer"), ("soft", "another"))
    grid = more.pop("grid", Grid(12, 12))
    return Row(
        **({"image": scene(*size), "grid": grid, "kept": [0, 143], "title": ""} | more),
        captions=captions,
    )


@pytest.mark.parametrize("size", SIZES)
def test_any_shape_of_image_and_any_length_of_text(size):
    one = Row(
        image=scene(*size),
        grid=Grid(12, 12),
        kept=[0, 143],
        title="why " * 200,
        captions=(("x" * 500, ""), ("short", "an answer of many words " * 40)),
        stands=[1, 143],
    )
    page, lost = draw([one, one], "tokens")
    assert page.mode == "RGB"
    assert page.width < 2000
    assert not lost


def paper(page):
    """The share of a sheet that nothing is drawn on."""
    return float((np.asarray(page) == PAPER).all(axis=-1).mean())


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("beside", [None, (300, 200), (200, 300), (100, 1600)])
def test_no_sheet_is_half_empty(size, beside):
    if size[0] > 100 * size[1]:
        return  # a hair's breadth of a panorama: its captions are most of the sheet
    rows = [row(*size)] + ([] if beside is None else [row(*beside)])
    page, _ = draw(rows)
    assert paper(page) < 0.45
    assert page.height < len(rows) * (TALLEST + 250)


def test_a_folded_image_is_all_there_from_left_to_right():
    tall = Image.linear_gradient("L").resize((40, 800)).convert("RGB")
    parts = drawing._parts(tall.size, PANEL // 2)
    whole = panel(tall, PANEL // 2)
    folded = np.asarray(drawing._folded(whole, parts))
    assert parts > 1
    assert folded.shape[1] <= PANEL // 2
    step = whole.width + drawing.FOLD
    again = np.concatenate([folded[:, i * step : i * step + whole.width] for i in range(parts)])
    assert (again[: whole.height] == np.asarray(whole)).all()


def test_a_kept_patch_says_how_many_tokens_it_stands_for_and_no_other_does():
    photo = panel(scene(360, 240))
    grid, kept = Grid(4, 6), [0, 23]
    plain, marked = shade(photo, grid, kept), shade(photo, grid, kept)
    number(marked, grid, kept, [7, 137])
    changed = (np.asarray(plain) != np.asarray(marked)).any(axis=-1)
    cells = changed.reshape(4, 120, 6, 120).any(axis=(1, 3))
    assert np.argwhere(cells).tolist() == [[0, 0], [3, 5]]
    fine = Grid(120, 120)
    before = shade(photo, fine, kept)
    number(before, fine, kept, [7, 137])  # patches of six pixels hold no number
    assert (np.asarray(before) == np.asarray(shade(photo, fine, kept))).all()


def test_the_legend_says_what_is_on_the_sheet(monkeypatch):
    said = []
    write = drawing.lettering.write
    monkeypatch.setattr(
        drawing.lettering, "write", lambda *words: (said.append(words[2]), write(*words))[1]
    )
    draw([row(120, 80)])
    assert said[-2:] == ["kept", "dropped"]
    draw([row(120, 80, stands=[1, 2], grid=Grid(12, 12, (0.2, 0.0, 0.8, 1.0)))], "what they mean")
    assert "cut away by the model's processor" in said
    assert said[-1] == "what they mean"
    draw([row(120, 80, stands=[1, 2], grid=Grid(300, 300))], "what they mean")
    assert said[-1] == "dropped"  # too fine for numbers, so none are explained


def test_more_pixels_than_the_format_holds(tmp_path):
    with pytest.raises(OTPruneError, match=r"cannot write .*sheet.webp \(1516 x \d+ pixels\)"):
        drawing.save([row(100, 100)] * 22, tmp_path / "sheet.webp")
