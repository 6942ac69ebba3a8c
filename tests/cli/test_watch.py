"""`otprune watch`: what it sees, when it asks, what it prints, records and saves."""

import json
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

import otprune
from otprune import demo
from otprune.cli import streams
from otprune.errors import FrameError, OTPruneError
from otprune.reading.frames import Frames
from tests.cli.conftest import QUESTION, scene
from tests.clips import COLOURS, break_frame, make_clip

SHORT = ("--max-new-tokens", "2")


@pytest.fixture
def clip(tmp_path):
    """Six frames in 0.6 seconds, all different."""
    return make_clip(tmp_path / "clip.mov")


@pytest.fixture
def watch(run, embedded):
    """`watch(source, ...)`: status, stderr, and the JSON objects by their kind."""

    def call(source, *options):
        said = run("watch", source, QUESTION, "--json", *SHORT, *options)
        found = {"begin": [], "answer": [], "broken": [], "end": []}
        for line in said.out.splitlines():
            one = json.loads(line)
            found[one.pop("kind")].append(one)
        return said.status, said.err, found

    return call


def times(found):
    return pytest.approx([one["time"] for one in found["answer"]], abs=1e-6)


def test_json_is_an_object_a_line(watch, clip):
    status, err, found = watch(clip)
    assert (status, err) == (0, "")
    (begin,), (end,) = found["begin"], found["end"]
    assert begin == {"model": "the embedded model", "source": str(clip), "question": QUESTION}
    answers = found["answer"]
    assert [one["frame"] for one in answers] == list(range(6))
    assert times(found) == [number / 10 for number in range(6)]
    for one in answers:
        assert one["tokens_before"] == 144
        assert one["tokens_kept"] == len(one["indices"]) == 16
        assert one["tokens_remembered"] == 16  # the embedded model: of one frame
        assert min(one[f"{part}_seconds"] for part in ("encode", "select", "prefill", "answer")) > 0
        assert one["frames_per_second"] > 0
    assert [one["tokens_forgotten"] for one in answers] == [0, 16, 16, 16, 16, 16]
    counts = {"frames": 6, "unchanged": 0, "broken": 0, "dropped": 0, "answers": 6}
    assert {name: end[name] for name in counts} == counts
    assert (end["kept"], end["remembered"], end["interrupted"]) == (96, 16, False)
    parts = sum(end[name] for name in ("read", "encode", "select", "prefill", "answer", "draw"))
    assert 0 < parts <= end["seconds"]
    assert end["answer"] == pytest.approx(sum(one["answer_seconds"] for one in answers))


@pytest.mark.parametrize("width", [50, 80])
def test_text_has_a_line_for_each_answer_and_a_summary(run, embedded, clip, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    said = run("watch", clip, QUESTION, *SHORT, "--frames", 3)
    assert said.status == 0
    lines = said.out.splitlines()
    assert len([line for line in lines if "16/144" in line]) == 3
    assert ("    time     kept  memory" in said.out) == (width == 80)
    said_whole = " ".join(said.out.split())
    assert "3 frames, 0 of them unchanged, 3 answers, 48 tokens kept" in said_whole
    assert "encode 0." in said_whole
    said = run("watch", clip, QUESTION, *SHORT, "--frames", 1)
    assert "1 frame, 0 of them unchanged, 1 answer, 16 tokens kept" in " ".join(said.out.split())
    others = [line for line in lines if str(clip) not in line and "16/144" not in line]
    assert max(map(len, others)) <= width  # an answer may be longer


@pytest.mark.parametrize(
    ("options", "asked", "seen"),
    [
        (("--every", "200ms"), [0, 0.2, 0.4], 6),
        (("--every", "1m"), [0], 6),
        (("--see-every", "0.2s"), [0, 0.2, 0.4], 3),
        (("--frames", 2), [0, 0.1], 2),
        (("--seconds", "0.25"), [0, 0.1, 0.2], 3),
        (("--on-change", "--frames", 1), [0], 1),
    ],
)
def test_when_it_looks_and_asks(watch, clip, options, asked, seen):
    status, _, found = watch(clip, *options)
    assert status == 0
    assert times(found) == asked
    assert found["end"][0]["frames"] == seen


def test_nothing_new_is_not_asked_about(watch, tmp_path):
    still = make_clip(tmp_path / "still.mov", ["red", "red", "red", "blue"])
    _, _, found = watch(still)
    assert times(found) == [0, 0.3]
    assert found["end"][0]["unchanged"] == 2
    # Encoded all the same, and none of their tokens is new.
    _, _, found = watch(still, "--unchanged", 0, "--method", "dtd", "--set", "threshold=0.99")
    assert times(found) == [0, 0.3]
    assert found["end"][0]["unchanged"] == 0
    _, _, found = watch(still, "--every", "100ms", "--changes-only")
    answers = [one["answer"] for one in found["answer"]]
    assert all(a != b for a, b in pairwise(answers))
    assert len(answers) < found["end"][0]["answers"] == 4


def test_another_model_remembers_the_stream(run, checkpoint, clip):
    said = run("watch", clip, QUESTION, "--model", checkpoint, "--json", *SHORT)
    assert said.status == 0, said.err
    *_, end = map(json.loads, said.out.splitlines())
    assert end["remembered"] == end["kept"] > 0
    said = run("watch", clip, QUESTION, "--model", checkpoint, "--memory", 20, "--json", *SHORT)
    *_, end = map(json.loads, said.out.splitlines())
    assert end["remembered"] <= 20


def test_forgetting_what_is_replaced(watch, clip):
    how = ("--method", "fixed-camera", "--rate", 4, "--memory", 144)
    _, _, found = watch(clip, *how, "--forget", "replaced")
    assert {one["tokens_remembered"] for one in found["answer"]} == {144}


def test_forgetting_by_a_method(watch, clip):
    _, _, found = watch(clip, "--memory", 40, "--forget", "otprune")
    remembered = [one["tokens_remembered"] for one in found["answer"]]
    assert remembered == [16, 32, 40, 40, 40, 40] or max(remembered) <= 40
    assert found["end"][0]["remembered"] > 16


def test_a_broken_frame_is_told_and_the_stream_goes_on(watch, run, embedded, clip):
    status, _, found = watch(break_frame(clip, 2))
    assert status == 0
    assert "clip.mov: the frame at 0.20 s cannot be decoded" in found["broken"][0]["error"]
    assert times(found) == [0, 0.1, 0.3, 0.4, 0.5]
    assert (found["end"][0]["broken"], found["end"][0]["frames"]) == (1, 5)
    said = " ".join(run("watch", clip, QUESTION, *SHORT).out.split())
    assert "no frame: " in said
    assert "1 broken" in said


def test_a_frame_that_the_session_refuses_is_told_too(watch, clip, monkeypatch):
    see = otprune.watch.see

    def picky(self, image, time):
        if self.frames == 1 and 0.1 <= time < 0.2:
            raise FrameError("the processor refuses it")
        return see(self, image, time)

    monkeypatch.setattr(otprune.watch, "see", picky)
    status, _, found = watch(clip)
    assert status == 0
    assert found["broken"] == [{"error": "the processor refuses it"}]
    assert times(found) == [0, 0.2, 0.3, 0.4, 0.5]


def test_without_a_single_frame_it_is_an_error(watch, tmp_path):
    (tmp_path / "broken.png").write_text("no image")
    status, err, found = watch(tmp_path)
    assert status == 2
    assert len(found["broken"]) == 1
    assert f"{tmp_path}: no frame of it could be used" in err


def test_a_folder_of_images_of_several_sizes(watch, tmp_path):
    for number, size in enumerate([(64, 48), (48, 64), (80, 80)]):
        scene(*size, seed=number).save(tmp_path / f"{number}.png")
    film = tmp_path / "film.mp4"
    status, _, found = watch(tmp_path, "--fps", 2, "--record", film)
    assert status == 0
    assert times(found) == [0, 0.5, 1]
    shown = [image for _, image in otprune.frames(film)]
    assert len(shown) == 3
    assert len({image.size for image in shown}) == 1


def test_the_recording_has_every_frame_with_its_time(watch, tmp_path):
    image = Image.new("RGB", (64, 48), "red")
    other = scene(64, 48)
    clip = make_clip(tmp_path / "clip.mov", [image, image, other, other])
    film = tmp_path / "film.mp4"
    status, err, found = watch(clip, "--record", film)
    assert (status, err) == (0, f"otprune: note: recorded in {film}\n")
    assert found["end"][0]["draw"] > 0
    when, shown = zip(*otprune.frames(film), strict=True)
    assert when == pytest.approx([0, 0.1, 0.2, 0.3], abs=1e-3)
    page = np.asarray(shown[0]).astype(int)
    left, right = page[28:388, 28:508], page[28:388, 528:1008]
    assert left[180, 240] == pytest.approx([255, 0, 0], abs=12)
    dim = (right.max(axis=-1) < 130).mean()  # dropped patches, 128 of 144
    assert 0.8 < dim < 0.95
    # The second frame was not encoded, and shows what was kept of the first.
    again = np.asarray(shown[1]).astype(int)[28:388, 528:1008]
    assert np.abs(again - right).mean() < 4
    text = page[400:]
    assert (text.max(axis=-1) < 128).any()


class Stopped:
    """Frames, and then what a test says."""

    live = False

    def __init__(self, error, frames=2):
        self.error, self.frames = error, frames

    def moments(self, report):
        for number in range(self.frames):
            yield number / 10, partial(scene, 64, 48, seed=number)
        raise self.error

    def close(self):
        pass


def test_ctrl_c_ends_it_cleanly(watch, tmp_path, monkeypatch):
    film, state = tmp_path / "film.mp4", tmp_path / "state.safetensors"
    monkeypatch.setattr(otprune, "frames", lambda *_, **__: Frames(Stopped(KeyboardInterrupt())))
    status, _, found = watch("sample", "--record", film, "--save", state)
    assert status == 130
    assert len(found["answer"]) == 2
    assert found["end"][0]["interrupted"]
    assert len(list(otprune.reading.frames(film))) == 2
    assert state.exists()


def test_a_source_that_fails_is_an_error_after_the_summary(watch, monkeypatch):
    lost = OTPruneError("the cable is out")
    monkeypatch.setattr(otprune, "frames", lambda *_, **__: Frames(Stopped(lost)))
    status, err, found = watch("sample")
    assert (status, err) == (2, "otprune: error: the cable is out\n")
    assert found["end"][0]["frames"] == 2
    assert not found["end"][0]["interrupted"]


def test_dropped_frames_are_counted(watch, run, embedded, clip, monkeypatch):
    monkeypatch.setattr(Frames, "dropped", 3)
    assert watch(clip, "--frames", 1)[2]["end"][0]["dropped"] == 3
    said = run("watch", clip, QUESTION, *SHORT, "--frames", 1)
    assert "3 dropped to keep up" in " ".join(said.out.split())


def test_what_is_saved_is_gone_on_from(watch, tmp_path, clip):
    whole = watch(clip, "--memory", 60)[2]["answer"]
    state = tmp_path / "state.safetensors"
    first = watch(clip, "--memory", 60, "--frames", 3, "--save", state)[2]["answer"]
    rest = make_clip(tmp_path / "rest.mov", COLOURS[3:])
    status, _, found = watch(rest, "--memory", 60, "--resume", state)
    assert status == 0
    after = found["answer"]
    assert [one["frame"] for one in after] == [3, 4, 5]
    assert after[0]["time"] == pytest.approx(first[-1]["time"])  # the time goes on
    for name in ("answer", "indices", "tokens_remembered"):
        assert [one[name] for one in [*first, *after]] == [one[name] for one in whole]
    status, err, _ = watch(rest, "--memory", 61, "--resume", state)
    assert status == 2
    assert "memory=60, this one has memory=61" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.mp4", QUESTION), "no such video or folder: none.mp4"),
        (("empty", QUESTION), "empty is a folder without images"),
        (("text.mp4", QUESTION), "text.mp4 cannot be opened as a video"),
        (("4096", QUESTION), "camera 4096 "),
        (("sample",), "Missing argument 'QUESTION'"),
        (("sample", " "), 'the question is empty: otprune watch SOURCE "QUESTION"'),
        (("sample", "Is there a zebra?"), "the embedded model does not know 'zebra'"),
        (("sample", QUESTION, "--every", "2x"), "--every 2x: expected a time more than 0"),
        (("sample", QUESTION, "--every", "0s"), "--every 0s: expected a time more than 0"),
        (("sample", QUESTION, "--every", "1s", "--on-change"), "--every and --on-change"),
        (("sample", QUESTION, "--fps", "5"), "fps=5 belongs to a folder of images"),
        (("sample", QUESTION, "--rate", "2.5"), "--rate 2.5: otprune keeps a whole number"),
        (("sample", QUESTION, "--rate", "nan"), "--rate nan: expected a number of tokens"),
        (("sample", QUESTION, "--method", "strem"), "--method strem: did you mean stream?"),
        (("sample", QUESTION, "--method", "dtd", "--rate", "9"), "dtd keeps what changed"),
        (("sample", QUESTION, "--method", "dtd", "--set", "x=1"), "--set x: dtd has threshold"),
        (("sample", QUESTION, "--method", "visionzip"), "by watch, which has the tokens of a"),
        (("sample", QUESTION, "--method", "recommended"), "merges and weighs tokens"),
        (("sample", QUESTION, "--set", "rate=3"), "--set rate: this is --rate"),
        (("sample", QUESTION, "--forget", "some"), "no method 'some'"),
        (("sample", QUESTION, "--memory", "0"), "memory=0: expected a number of tokens"),
        (("sample", QUESTION, "--unchanged", "2"), "unchanged=2.0: expected a number in"),
        (("sample", QUESTION, "--record", "film.gif"), "videos are written as .mp4"),
        (("sample", QUESTION, "--record", "no/film.mp4"), "there is no folder no"),
        (("clip.mov", QUESTION, "--record", "clip.mov"), "would overwrite the source"),
        (
            ("clip.mov", QUESTION, "--save", "clip.mov"),
            "--save clip.mov would overwrite the source",
        ),
        (("images", QUESTION, "--save", "images/1.png"), "1.png would overwrite the source"),
        (("sample", QUESTION, "--record", "x.mp4", "--save", "./x.mp4"), "name one file, x.mp4"),
        (("sample", QUESTION, "--save", "no/state"), "--save no/state: expected a file"),
        (("sample", QUESTION, "--resume", "none"), "--resume none: there is no such file"),
        (("sample", QUESTION, "--resume", "text.mp4"), "cannot be read as a saved session"),
        (("sample", QUESTION, "--tokens", "5"), "--tokens 5: expected 144 or 324"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    refused, embedded, tmp_path, monkeypatch, clip, words, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images/1.png")
    (tmp_path / "text.mp4").write_text("no video")
    monkeypatch.chdir(tmp_path)
    assert message in refused("watch", *words)


def test_short_words_for_sources(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert streams.source("0") == 0
    assert streams.source("sample") == str(demo.CLIP)
    assert streams.source("rtsp://host/0") == "rtsp://host/0"
    for name in ("0", "sample"):
        (tmp_path / name).mkdir()
        assert streams.source(name) == name


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2", 2), ("2s", 2), ("500ms", 0.5), (".5", 0.5), ("1.5 m", 90), ("1min", 60), ("2h", 7200)],
)
def test_times(text, seconds):
    assert streams.parse_time("--every", text) == pytest.approx(seconds)


def test_selectors_by_name():
    stream = streams.stream_selector("stream", None, ["half_life=4"])
    assert (type(stream), stream.rate, stream.half_life) == (otprune.StreamSelector, 16, 4)
    fixed = streams.stream_selector("fixed-camera", 8, None)
    assert (type(fixed), fixed.rate) == (otprune.FixedCameraSelector, 8)
    assert streams.stream_selector("uniform", 2.5, None).rate == 2.5
    assert streams.stream_selector("dtd", None, ["threshold=0.9"]).threshold == 0.9
    assert streams.stream_selector("transport", 8, None) == otprune.TransportPrune(8)


def test_the_embedded_model_answers_about_the_sample_clip(run):
    said = run(
        *("watch", "sample", QUESTION, "--see-every", "500ms", "--changes-only", "--json"),
        *("--max-new-tokens", "2"),
    )
    assert said.status == 0, said.err
    _, *answers, end = map(json.loads, said.out.splitlines())
    assert [one["answer"] for one in answers] == ["no", "yes", "no"]
    assert [one["time"] for one in answers] == pytest.approx([0, 2, 6])
    assert end["frames"] == 24
