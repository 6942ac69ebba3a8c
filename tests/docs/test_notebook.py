"""The notebook runs from its first cell to its last, and prints what it was saved with."""

import base64
import json

import pytest

from .pages import ROOT

pytestmark = pytest.mark.docs
SAVED = ROOT / "examples/tour.ipynb"


def test_it_runs_and_its_outputs_are_current():
    from tools.tour import run, texts

    made = run()
    saved = json.loads(SAVED.read_text())
    printed = [
        "".join(x["text"])
        for cell in saved["cells"]
        for x in cell.get("outputs", [])
        if "text" in x
    ]
    assert texts(made) == printed
    assert len(printed) == 4


def test_it_is_small_and_has_pictures():
    assert SAVED.stat().st_size < 300_000
    outputs = [
        x for cell in json.loads(SAVED.read_text())["cells"] for x in cell.get("outputs", [])
    ]
    pictures = [x["data"]["image/jpeg"] for x in outputs if "image/jpeg" in x.get("data", {})]
    assert len(pictures) == 4
    assert all(base64.b64decode(x).startswith(b"\xff\xd8") for x in pictures)
