"""Small videos, made in the tests that read them."""

from fractions import Fraction

import av
from PIL import Image

COLOURS = ["red", "lime", "blue", "yellow", "cyan", "magenta"]


def make_clip(path, frames=COLOURS, fps=10, size=(64, 48), turned=0, start=0):
    """A video of plain frames, each of one colour; `frames` are colours or images.

    `start` is the number of the first frame.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj444p"
        stream.codec_context.time_base = Fraction(1, fps)
        if turned:
            stream.set_display_rotation(turned)
        for number, given in enumerate(frames, start):
            image = given if isinstance(given, Image.Image) else Image.new("RGB", size, given)
            frame = av.VideoFrame.from_image(image)
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def break_frame(path, number):
    """Overwrite the start of one frame's data, in place."""
    with av.open(str(path)) as opened:
        packets = [p for p in opened.demux(video=0) if p.size]
        place, size = packets[number].pos, packets[number].size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)
    return path
