"""The kept patches as SVG."""

import base64
import io
import re
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from otprune.asking.drawing import Grid
from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells
from otprune.page.overlay import picture, svg
from tests.untrained import scene

CELLS = Cells(torch.tensor([1, 4]), torch.tensor([0, 0, 0, 1, 1, 0]))
MASSES = [4 / 6, 2 / 6]


def made(grid, **changes):
    given = {"image": scene(), "grid": grid, "kept": [1, 4], "cells": CELLS, "masses": MASSES}
    return picture(**given | changes)


def elements(shown, *arguments):
    """Classes and attributes of what is drawn; it is well-formed."""
    root = ElementTree.fromstring(svg(shown, "A <picture>", *arguments))
    return [(one.get("class"), one) for one in root.iter()]


def boxes(path):
    return [tuple(map(float, box)) for box in re.findall(r"M(\S+) (\S+)H(\S+)V(\S+)H\S+z", path)]


def test_dropped_patches_are_dim_and_kept_ones_have_their_cells():
    found = elements(made(Grid(2, 3)))
    (dropped,) = [boxes(one.get("d")) for name, one in found if name == "otp-dropped"]
    areas = [boxes(one.get("d")) for name, one in found if name == "otp-area"]
    kept = [boxes(one.get("d")) for name, one in found if name == "otp-kept"]
    assert len(dropped) == 4
    assert [len(area) for area in areas] == [4, 2]
    assert kept == [[(40.0, 0.0, 80.0, 40.0)], [(40.0, 40.0, 80.0, 80.0)]]
    assert sorted([*dropped, *kept[0], *kept[1]]) == sorted([*areas[0], *areas[1]])
    assert [one.find("title").text for name, one in found if name == "otp-cell"] == [
        "Row 1, column 2 stands for 4 tokens of 6: mass 66.7%.",
        "Row 2, column 2 stands for 2 tokens of 6: mass 33.3%.",
    ]


def test_one_cell_is_held():
    names = [name for name, _ in elements(made(Grid(2, 3)), 1)]
    assert [name for name in names if name and name.startswith("otp-cell")] == [
        "otp-cell",
        "otp-cell otp-held",
    ]


def test_what_the_model_did_not_see_is_marked():
    assert "otp-unseen" in svg(made(Grid(2, 3, (0.2, 0.0, 0.8, 1.0))), "")
    assert "otp-unseen" not in svg(made(Grid(2, 3)), "")
    padded = svg(made(Grid(2, 3, (0.0, -0.25, 1.0, 1.25))), "")
    assert "otp-unseen" not in padded
    assert re.search(r"[HVM ]-", padded) is None  # cut off at the border


def test_the_image_is_small_and_whole():
    shown = made(Grid(2, 3), image=Image.new("RGB", (4000, 2000), "red"))
    assert (shown.width, shown.height) == (640, 320)
    content = base64.b64decode(shown.uri.partition(",")[2])
    assert Image.open(io.BytesIO(content)).size == (640, 320)
    tiny = made(Grid(2, 3), image=Image.new("RGB", (1, 1)))
    assert (tiny.width, tiny.height) == (1, 1)
    elements(tiny)


def test_without_a_grid_the_page_says_why():
    error = UnsupportedError("it cuts images into <tiles>: leave --overlay out, or do so")
    shown = made(error)
    assert "Not drawn: it cuts images into &lt;tiles&gt;." in svg(shown, "")
    assert shown.says(0) == "Token 2 stands for 4 tokens of 6: mass 66.7%."
    assert "do not fill a grid of 2 x 2" in svg(made(Grid(2, 2)), "")


def test_a_frame_has_kept_patches_without_cells():
    found = elements(made(Grid(2, 3), cells=None, masses=()))
    assert [len(boxes(one.get("d"))) for name, one in found if name == "otp-kept"] == [2]
    assert not [name for name, _ in found if name == "otp-cell"]


def test_a_token_that_stands_for_itself():
    cells = Cells(torch.tensor([0, 1]), torch.tensor([0, 1, 1]))
    shown = made(Grid(1, 3), kept=[0, 1], cells=cells, masses=[1 / 3, 2 / 3])
    assert shown.says(0) == "Row 1, column 1 stands for 1 token, itself of 3: mass 33.3%."
    with pytest.raises(IndexError):
        shown.says(2)
