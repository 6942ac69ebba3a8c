"""Frames of videos, folders of images, cameras and network streams."""

from otprune.reading.frames import Frames, frames

__all__ = ["Frames", "frames"]
