"""Frames of files, folders and live sources."""

import functools
import gc
import http.server
import io
import re
import subprocess
import sys
import threading
import wave
import weakref

import av
import numpy as np
import pytest
from PIL import Image

import otprune
from otprune import demo
from otprune.errors import FrameError, OTPruneError
from otprune.reading import newest
from otprune.reading.frames import Frames
from otprune.reading.moments import thinned
from otprune.reading.places import camera
from tests.clips import COLOURS, break_frame, make_clip


def colours(images):
    """The name of each image's colour."""
    by_rgb = {Image.new("RGB", (1, 1), name).getpixel((0, 0)): name for name in COLOURS}

    def name(image):
        middle = np.array(image.getpixel((image.width // 2, image.height // 2)))
        return min(by_rgb.items(), key=lambda item: abs(np.array(item[0]) - middle).sum())[1]

    return [name(image) for image in images]


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mov")


def test_every_frame_of_a_video_with_its_time(clip):
    with otprune.frames(clip) as reading:
        assert not reading.live
        times, images = zip(*reading, strict=True)
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert colours(images) == COLOURS
    assert {(image.mode, image.size) for image in images} == {("RGB", (64, 48))}
    assert (reading.broken, reading.dropped) == (0, 0)


@pytest.mark.parametrize(
    ("every", "kept"),
    [(0.05, [0, 1, 2, 3, 4, 5]), (0.1, [0, 1, 2, 3, 4, 5]), (0.2, [0, 2, 4]), (0.25, [0, 3, 5])],
)
def test_the_first_frame_of_every_so_many_seconds(clip, every, kept):
    times = [time for time, _ in otprune.frames(str(clip), every)]
    assert times == pytest.approx([number / 10 for number in kept])


@pytest.mark.parametrize("start", [0.0, 0.3])
def test_thinning_does_not_drift(start):
    read = ((start + t / 30, None) for t in range(3000))
    kept = [round(30 * (t - start)) for t, _ in thinned(read, 0.5)]
    assert kept == list(range(0, 3000, 15))


def test_times_count_from_the_first_frame(tmp_path):
    late = make_clip(tmp_path / "late.mkv", start=7)
    with av.open(str(late)) as opened:
        assert next(opened.decode(video=0)).time == pytest.approx(0.7, abs=1e-3)
    times = [time for time, _ in otprune.frames(late)]
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5], abs=2e-3)


def test_a_broken_frame_is_reported_and_the_next_one_follows(clip):
    said = []
    found = list(otprune.frames(break_frame(clip, 2), on_broken=said.append))
    assert colours(image for _, image in found) == [c for c in COLOURS if c != "blue"]
    (error,) = said
    assert isinstance(error, FrameError)
    assert "clip.mov: the frame at 0.20 s cannot be decoded" in str(error)


def test_frames_may_change_their_size(tmp_path):
    big = make_clip(tmp_path / "big.mjpeg", size=(96, 64), frames=["red", "blue"]).read_bytes()
    small = make_clip(tmp_path / "small.mjpeg", size=(48, 80), frames=["lime"]).read_bytes()
    (tmp_path / "both.mjpeg").write_bytes(big + small)
    images = [image for _, image in otprune.frames(tmp_path / "both.mjpeg")]
    assert [image.size for image in images] == [(96, 64), (96, 64), (48, 80)]
    assert colours(images) == ["red", "blue", "lime"]


@pytest.mark.parametrize(("turned", "size"), [(90, (48, 64)), (180, (64, 48)), (-90, (48, 64))])
def test_frames_are_turned_as_the_file_says(tmp_path, turned, size):
    half = Image.new("RGB", (64, 48), "red")
    half.paste(Image.new("RGB", (32, 48), "blue"), (0, 0))
    ((_, image),) = otprune.frames(make_clip(tmp_path / "x.mov", [half], turned=turned))
    assert image.size == size
    wanted = half.rotate(turned, expand=True)  # counterclockwise
    difference = np.asarray(image).astype(int) - np.asarray(wanted)
    assert np.abs(difference).mean() < 8


def test_images_of_a_folder_in_natural_order(tmp_path):
    for number, name in ((2, "lime"), (10, "blue"), (1, "red")):
        Image.new("RGB", (8, 6), name).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".frame0.png").write_text("hidden")
    (tmp_path / "frame0.png").mkdir()
    (tmp_path / "frame5.jpg").write_text("broken")
    said = []
    found = list(otprune.frames(tmp_path, fps=5, on_broken=said.append))
    assert colours(image for _, image in found) == ["red", "lime", "blue"]
    assert [time for time, _ in found] == pytest.approx([0, 0.2, 0.6])  # the broken one has a time
    assert "frame5.jpg cannot be read as an image" in str(said[0])
    pattern = otprune.frames(f"{tmp_path}/frame?.png")
    assert [time for time, _ in pattern] == [0, 1]
    ((_, one),) = otprune.frames(tmp_path / "frame10.png")
    assert colours([one]) == ["blue"]


def test_deep_and_transparent_images_are_scaled_and_laid_on_white(tmp_path):
    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / "1.png")
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "2.png")
    deep, clear = (image for _, image in otprune.frames(tmp_path))
    assert deep.getpixel((0, 0)) == (117, 117, 117)
    assert clear.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("none.mp4", {}, "no such video or folder: none.mp4"),
        ("empty", {}, "empty is a folder without images"),
        ("none*.png", {}, r"no file fits the pattern none\*.png"),
        ("", {}, "the source is empty"),
        ("moving.webp", {}, "moving.webp has 2 frames, and of an image file only the first"),
        ("text.mp4", {}, "text.mp4 cannot be opened as a video: Invalid data"),
        ("sound.wav", {}, "sound.wav has no video in it"),
        ("clip.mov", {"fps": 5}, "fps=5 belongs to a folder of images"),
        ("clip.mov", {"every": 0}, "every=0: expected a number more than 0"),
        ("clip.mov", {"every": "2s"}, "every='2s': expected a number"),
        (-1, {}, "camera -1: the first one is 0"),
        (4096, {}, "camera 4096 .* cannot be opened"),
        (True, {}, "source=True: expected a path"),
        (None, {}, "source=None: expected a path"),
    ],
)
def test_what_cannot_be_read_is_refused_at_once(
    tmp_path, monkeypatch, clip, source, options, message
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    still = [Image.new("RGB", (8, 6), name) for name in ("red", "blue")]
    still[0].save(tmp_path / "moving.webp", save_all=True, append_images=still[1:])
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OTPruneError, match=message):
        otprune.frames(source, **options)


def test_a_file_that_ends_early_gives_what_is_there_and_says_so(tmp_path):
    content = demo.CLIP.read_bytes()  # its index is at the start
    half = tmp_path / "half.mp4"
    half.write_bytes(content[: len(content) // 2])
    said = []
    times = [time for time, _ in otprune.frames(half, on_broken=said.append)]
    assert len(times) == pytest.approx(44, abs=2)
    assert len(said) == 1
    assert re.search(r"half.mp4 ends at 4\.\d+ s of 12.00 s: the rest is missing", str(said[0]))
    half.write_bytes(content[:1000])
    with pytest.raises(OTPruneError, match="cannot be opened"):
        otprune.frames(half)


def test_no_frame_is_lost_without_a_word(tmp_path):
    content = bytearray(demo.CLIP.read_bytes())
    content[80_000:82_000] = bytes(2000)
    hole = tmp_path / "hole.mp4"
    hole.write_bytes(content)
    said = []
    times = [time for time, _ in otprune.frames(hole, on_broken=said.append)]
    assert len(times) < 120
    assert "the frame at 6.20 s cannot be decoded: it is damaged" in str(said[0])
    lost = re.search(r"hole.mp4: (\d+) more frames depend on damaged ones", str(said[-1]))
    assert len(times) + len(said) - 1 + int(lost[1]) == 120


def test_stopping_early_closes_the_file(clip, monkeypatch):
    from otprune.reading.video import Video

    closed = []
    whole = Video.close
    monkeypatch.setattr(Video, "close", lambda self: (closed.append(self), whole(self)))
    for _, _ in otprune.frames(clip):
        break
    gc.collect()
    assert closed
    reading = otprune.frames(clip)
    next(reading)
    reading.close()
    assert list(reading) == []


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(newest, "_END", 0.01)  # this camera may send nothing at the end
    camera = Live()
    yield camera
    camera.send(1)
    assert camera.closed.wait(20)


class Live:
    """A camera whose next frames come when a test says so."""

    live = True

    def __init__(self):
        self.ready, self.taken, self.closed = threading.Semaphore(0), [], threading.Event()
        self.error = None
        self.came = threading.Condition()

    def moments(self, report):
        for number in range(100):
            self.ready.acquire()
            if self.error is not None:
                raise self.error
            if number == 2:
                report(FrameError("frame 2 is broken"))
                continue
            yield float(number), functools.partial(Image.new, "RGB", (4, 4))
            with self.came:  # the frame before has been put in its place
                self.taken.append(number)
                self.came.notify_all()

    def send(self, frames):
        """Let so many frames come."""
        for _ in range(frames):
            self.ready.release()

    def wait(self, number):
        with self.came:
            assert self.came.wait_for(lambda: number in self.taken, timeout=20)

    def close(self):
        self.closed.set()


def test_a_live_source_gives_the_newest_frame_and_counts_the_others(live):
    said = []
    with Frames(live, on_broken=said.append) as reading:
        live.send(1)
        assert next(reading)[0] == 0
        live.send(5)  # 1, 2 (broken), 3, 4, 5; the caller is at work
        live.wait(5)
        assert next(reading)[0] == 5
        assert reading.dropped == 3
        assert [str(error) for error in said] == ["frame 2 is broken"]
        assert (reading.live, reading.broken) == (True, 1)
    assert list(reading) == []


def test_frames_that_are_passed_over_are_not_dropped(live):
    with Frames(live, every=3.0) as reading:
        live.send(1)
        assert next(reading)[0] == 0
        live.send(6)  # 1 to 6, of which 3 and 6 are due
        live.wait(6)
        assert next(reading)[0] == 6
        assert reading.dropped == 1


def test_a_live_source_is_read_from_the_first_call_on(live):
    live.send(5)
    reading = Frames(live)
    reading.close()
    assert live.closed.is_set()
    assert not live.taken
    assert list(reading) == []


def test_a_live_source_that_fails_says_so_and_its_thread_ends(live):
    reading = Frames(live)
    live.error = OTPruneError("the cable is out")
    live.send(1)
    with pytest.raises(OTPruneError, match="the cable is out"):
        next(reading)
    assert live.closed.wait(20)


def test_a_live_source_that_nobody_holds_is_closed(live):
    frames = Frames(live)
    live.send(1)
    next(frames)
    reading = weakref.ref(frames)
    del frames
    gc.collect()
    assert reading() is None
    assert not live.closed.is_set()  # it is, with its next frame


def test_a_file_on_a_web_server_is_read_whole(tmp_path, clip):
    make_clip(tmp_path / "clip.mkv")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    handler.log_message = None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            reading = otprune.frames(f"http://127.0.0.1:{server.server_port}/clip.mkv")
            assert not reading.live
            assert len(list(reading)) == 6
            with pytest.raises(OTPruneError, match=r"404|Not Found|not found"):
                otprune.frames(f"http://127.0.0.1:{server.server_port}/none.mp4")
        finally:
            server.shutdown()
            thread.join()


def test_a_web_camera_is_live():
    pictures = []
    for name in COLOURS:
        content = io.BytesIO()
        Image.new("RGB", (64, 48), name).save(content, "JPEG")
        pictures.append(content.getvalue())

    class Camera(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            for picture in pictures:
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}"
                self.wfile.write(head.encode() + b"\r\n\r\n" + picture + b"\r\n")

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Camera) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            reading = otprune.frames(f"http://127.0.0.1:{server.server_port}")
            assert reading.live
            found = []
            with pytest.raises(OTPruneError, match="cannot be read any further"):
                found.extend(reading)
        finally:
            server.shutdown()
            thread.join()
    times, images = zip(*found, strict=True)
    assert colours(images)[-1] == COLOURS[-1]
    assert len(images) + reading.dropped == len(COLOURS)
    assert list(times) == sorted(times)
    assert reading.broken == 0


def test_cameras_by_platform():
    assert camera(1, "linux") == {"file": "/dev/video1", "format": "video4linux2"}
    assert camera(0, "darwin")["file"] == "0:none"
    assert camera(0, "darwin")["format"] == "avfoundation"


def test_without_pyav_images_are_read_and_videos_say_what_to_install(tmp_path, clip):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    code = (
        "import sys; sys.modules['PIL'] = sys.modules['av'] = None\n"
        "import otprune\n"
        "try: otprune.frames('x.png')\n"
        "except otprune.MissingDependencyError as error: print(error)\n"
        "del sys.modules['PIL']\n"
        f"print(len(list(otprune.frames({str(tmp_path / '1.png')!r}))))\n"
        f"try: otprune.frames({str(clip)!r})\n"
        "except otprune.MissingDependencyError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pillow_said, one, av_said = done.stdout.splitlines()
    assert one == "1"
    assert "needs PyAV" in av_said
    assert "pip install 'otprune[video]'" in av_said
    assert "needs Pillow" in pillow_said
