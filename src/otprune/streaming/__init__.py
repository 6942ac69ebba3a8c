"""Frames: one budget over a whole video, and streams that come frame by frame."""

from otprune.streaming.stream import StreamSelector
from otprune.streaming.video import select_video

__all__ = ["StreamSelector", "select_video"]
