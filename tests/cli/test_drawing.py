"""The overlay: kept patches are the photograph, dropped ones dark, unseen ones paper."""

import numpy as np
import pytest

from otprune.cli.drawing import Grid, Row, draw, panel, shade

from .conftest import scene


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


def test_grid_beyond_the_picture():
    photo = panel(scene(300, 150))
    out = np.asarray(shade(photo, Grid(4, 4, (0.0, -0.5, 1.0, 1.5)), range(16)))
    assert (out == np.asarray(photo)).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (50, 40), (3000, 2000)])
def test_any_shape_of_picture_and_any_length_of_text(size):
    row = Row(
        picture=scene(*size),
        grid=Grid(12, 12),
        kept=[0, 143],
        title="why " * 200,
        captions=(("x" * 500, ""), ("short", "an answer of many words " * 40)),
    )
    page = draw([row, row])
    assert page.mode == "RGB"
    assert page.width < 2000
