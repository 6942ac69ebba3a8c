"""Frames: one budget over a whole video, and streams that come frame by frame."""

from otprune.streaming.dtd import DTD
from otprune.streaming.evs import EVS
from otprune.streaming.fixed_camera import FixedCameraSelector
from otprune.streaming.frames import FrameSelector
from otprune.streaming.static_patches import StaticPatches
from otprune.streaming.stream import StreamSelector
from otprune.streaming.uniform import UniformStream
from otprune.streaming.vidcom2 import VidCom2
from otprune.streaming.video import select_video

__all__ = [
    "DTD",
    "EVS",
    "FixedCameraSelector",
    "FrameSelector",
    "StaticPatches",
    "StreamSelector",
    "UniformStream",
    "VidCom2",
    "select_video",
]
