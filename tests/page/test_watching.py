"""Clips and cameras, frame by frame."""

import pytest

from otprune import demo
from otprune.asking.models import Loaded
from otprune.errors import OTPruneError
from otprune.page import watching
from otprune.page.watching import Watched, clip
from tests.clips import make_clip
from tests.untrained import scene

QUESTION = "How many things are there?"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(watching, "LONGEST", 2)


def test_a_clip_frame_by_frame(loaded, tmp_path):
    path = str(make_clip(tmp_path / "clip.mov"))
    frames = list(clip(loaded, path, QUESTION, "stream", 16, 0.2))
    assert [frame.says.partition(" s:")[0] for frame in frames] == ["0.00", "0.20", "0.40"]
    assert all(frame.answer for frame in frames)
    assert all(frame.picture.grid for frame in frames)
    assert len(list(clip(loaded, path, QUESTION, "otprune", 8, 0.1, most=2))) == 2


@pytest.mark.parametrize("method", watching.METHODS)
def test_every_method_watches(loaded, method):
    watched = Watched(loaded, QUESTION, method, 4)
    first = watched.see(scene(), 0.0)
    assert first.picture.kept
    again = watched.see(scene(), 1.0)
    assert "unchanged" in again.says
    assert (again.picture.kept, again.answer) == (first.picture.kept, first.answer)
    watched.close()


def test_visitors_watch_by_themselves(loaded):
    one, other = (Watched(loaded, QUESTION, "stream", 16) for _ in range(2))
    one.see(scene(seed=1), 0.0)
    seen = other.see(scene(seed=2), 0.0)
    alone = Watched(loaded, QUESTION, "stream", 16).see(scene(seed=2), 0.0)
    assert (seen.picture, seen.says, seen.answer) == (alone.picture, alone.says, alone.answer)


def refused(loaded, path, **changes):
    given = {"question": QUESTION, "method": "stream", "rate": 16, "every": 0.5} | changes
    with pytest.raises(OTPruneError) as caught:
        next(clip(loaded, path, **given))
    return str(caught.value)


def test_what_is_no_clip_is_refused(loaded, tmp_path):
    assert refused(loaded, None).startswith("There is no clip")
    playlist = tmp_path / "clip.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nother.mp4\n")
    assert refused(loaded, str(playlist)).startswith("clip.mp4 is not a clip that is read here")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(demo.CLIP.read_bytes()[:3000])
    said = refused(loaded, str(broken))
    assert "broken.mp4" in said
    assert str(tmp_path) not in said


def test_settings_are_checked(loaded):
    assert "expected one of" in refused(loaded, str(demo.CLIP), method="os:system")
    assert "tokens a frame" in refused(loaded, str(demo.CLIP), rate=0)
    assert "tokens a frame" in refused(loaded, str(demo.CLIP), rate=float("nan"))
    assert "every" in refused(loaded, str(demo.CLIP), every=0)
    embedded = Loaded("the embedded model", loaded.model, loaded.processor, embedded=True)
    assert "does not know 'zebra'" in refused(embedded, str(demo.CLIP), question="A zebra?")
