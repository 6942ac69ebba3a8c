"""What the page shows of an image and a question."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from otprune.asking.models import Loaded
from otprune.errors import OTPruneError
from otprune.page import asked, charts
from otprune.page.charts import Point, curve, curve_table, time_bar
from otprune.page.timing import Times, times
from otprune.page.wanted import Wanted

QUESTION = "Is there a red circle?"


@pytest.fixture
def short(monkeypatch):
    """Answers of a few tokens."""
    for name in ("answers", "answer", "pruned_answer"):
        whole = getattr(asked, name)
        monkeypatch.setattr(asked, name, lambda *a, whole=whole: whole(*a, 3))


def test_answers_come_first_then_patches_then_figures_then_times(loaded, upload, short):
    steps = list(asked.ask(loaded, upload(), QUESTION, Wanted("transport")))
    seen = [
        (bool(step.full), step.picture is not None, bool(step.figures), bool(step.times))
        for step in steps
    ]
    assert seen[0] == (False, False, False, False)
    assert seen[-1] == (True, True, True, True)
    assert all(before <= after for before, after in pairwise(seen))
    last = steps[-1]
    assert last.doing == ""
    assert last.picture.summary.startswith("14 of 144 visual tokens kept (9.7%); the prompt has ")
    before, after = re.search(r"(\d+) tokens instead of (\d+)", last.picture.summary).groups()
    assert int(after) - int(before) == 130
    assert last.figures.count("<tr>") == 5
    assert re.search(r"Certificate</th><td>0\.\d{3}</td>", last.figures)


def test_a_method_without_certificate_and_a_stage_say_so(loaded, upload, short):
    *_, last = asked.ask(loaded, upload(), QUESTION, Wanted("norm"))
    assert "no proof" in last.figures
    *_, last = asked.ask(loaded, upload(), QUESTION, Wanted("transport", encoder_keep=0.5))
    assert "would not cover what the encoder dropped" in last.figures
    assert "Inside the encoder: 144 -&gt; 72" not in last.picture.summary
    assert "Inside the encoder: 144 -> 72 tokens in layer" in last.picture.summary


def refused(loaded, path, question=QUESTION, wanted=None):
    with pytest.raises(OTPruneError) as caught:
        list(asked.ask(loaded, path, question, wanted or Wanted()))
    return str(caught.value)


def test_words_get_the_help_of_the_command_line(loaded, upload):
    embedded = Loaded("the embedded model", loaded.model, loaded.processor, embedded=True)
    said = refused(embedded, upload(), "Is there a sqare zebra?")
    assert "does not know 'sqare', 'zebra' (did you mean 'square'?)" in said
    assert "otprune ask --demo-help" in said
    for empty in ("", "  \n "):
        assert refused(loaded, upload(), empty).startswith("The question is empty")


def test_a_broken_file_gets_a_message_without_folders(loaded, upload, tmp_path):
    assert refused(loaded, None).startswith("There is no image")
    text = tmp_path / "text.png"
    text.write_text("no image")
    assert refused(loaded, str(text)) == (
        "text.png is not an image that can be read: give a PNG, JPEG, WebP or the like"
    )
    cut = tmp_path / "cut.png"
    cut.write_bytes(Path(upload()).read_bytes()[:200])
    assert refused(loaded, str(cut)).startswith("cannot read cut.png, it may be damaged")


def test_which_of_several_images_is_said(loaded, tmp_path, short):
    path = tmp_path / "moving.gif"
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    *_, last = asked.ask(loaded, str(path), QUESTION, Wanted())
    assert last.picture.summary.startswith("Of the file's frame 1 of 2: 14 of 144")
    *_, last = asked.compare(loaded, str(path), QUESTION, Wanted(), ["norm"])
    assert "Of the file's frame 1 of 2. With all tokens" in last
    *_, last = asked.sweep(loaded, str(path), QUESTION, Wanted(), (0.1,))
    assert "Of the file's frame 1 of 2. With all tokens" in last.html()


def test_an_image_of_too_many_pixels(loaded, upload, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "more than the 200 that are read" in refused(loaded, upload())


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_images_of_every_kind(loaded, tmp_path, mode, short):
    path = tmp_path / "image.tiff"
    kind = Image.new("L", (1, 1), 7).convert("I;16" if mode == "I;16" else mode)
    kind.save(path)
    *_, last = asked.compare(loaded, str(path), QUESTION, Wanted(), ["norm"])
    assert "14 of 144 tokens" in last


def test_a_comparison_is_a_row_that_grows(loaded, upload, short):
    rows = list(asked.compare(loaded, upload(), QUESTION, Wanted(), ["norm", "grid", "fastervlm"]))
    assert [row.count("otp-card'") for row in rows] == [0, 1, 2, 3]
    assert rows[-1].count("otp-picture") == 3


def test_a_method_that_cannot_be_used_does_not_end_a_comparison(loaded, upload, short):
    wanted = Wanted(encoder_keep=0.5)
    *_, last = asked.compare(loaded, upload(), QUESTION, wanted, ["fastervlm", "norm"])
    assert (last.count("otp-card'"), last.count("role='alert'"), last.count("otp-picture")) == (
        (2, 1, 1)
    )


@pytest.mark.parametrize("methods", [[], ["norm"] * 5])
def test_one_to_four_methods_are_compared(loaded, upload, methods):
    with pytest.raises(OTPruneError, match="choose from 1 to 4"):
        next(asked.compare(loaded, upload(), QUESTION, Wanted(), methods))


def test_a_sweep_ends_with_every_token(loaded, upload, short):
    steps = list(asked.sweep(loaded, upload(), QUESTION, Wanted("transport"), (0.1, 0.5, 1.0)))
    assert [len(step.points) for step in steps] == [0, 1, 2, 3]
    points, full = steps[-1].points, steps[-1].full
    assert steps[-1].html().count("<tr>") == 4
    assert [point.tokens for point in points] == [14, 72, 144]
    assert points[-1].same
    assert points[-1].answer == full
    free = [point.distances["free_mass_w2"] for point in points]
    assert free[0] > free[1] > free[2] == pytest.approx(0, abs=1e-9)


def test_times_add_up(loaded, image):
    for found in times(loaded, image, QUESTION, Wanted("cdpruner"), repeats=1):
        assert found.encoder > 0
        assert found.prefill >= 0  # what is left of the whole; a busy machine leaves nothing
        assert found.total == found.encoder + found.selection + found.prefill
    full, cut = times(loaded, image, QUESTION, Wanted(encoder_keep=0.5), repeats=1)
    assert full.selection == 0
    assert cut.selection > 0


def test_bars_have_one_scale():
    bar = time_bar(Times(0.2, 0.0, 0.8), Times(0.2, 0.05, 0.25), 3)
    widths = [float(x) for x in re.findall(r"width:([\d.]+)%", bar)]
    assert widths == [20, 0, 80, 20, 5, 25]
    assert "All tokens: <b>1.00 s</b> (encoder 200.0 ms, selection 0.0 ms, prefill 800.0 ms)" in bar
    time_bar(Times(0, 0, 0), Times(0, 0, 0), 1)


def test_a_curve_and_its_table():
    names = ("gaussian_w2", "exact_w2", "free_mass_w2")
    points = [
        Point(0.1, 14, "<b>", False, dict(zip(names, (0.4, None, 0.3), strict=True))),
        Point(1.0, 144, "yes", True, dict.fromkeys(names, 0.0)),
    ]
    drawn = curve(points)
    assert drawn.count("<polyline") == 3
    assert drawn.count("<circle") == 5
    assert drawn.count("otp-other") == 2
    table = curve_table(points)
    assert "&lt;b&gt; (another)" in table
    assert "needs POT" in table
    assert "<b>'" not in drawn
    assert curve([]) == ""


@pytest.mark.parametrize(("value", "top"), [(0.0, 1e-6), (0.3, 0.5), (0.21, 0.25), (1.0, 1.0)])
def test_the_scale_of_a_curve_is_round(value, top):
    assert charts._ceiling(value) == pytest.approx(top)
