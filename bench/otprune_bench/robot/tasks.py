"""Episodes and clips by name, and their files: light, since it is imported beside a simulator."""

from __future__ import annotations

from typing import NamedTuple

SIZE = 224  # pixels a side: 256 tokens of the ViT-S/14
FRAMES, EVERY = 80, 2  # of an episode; steps of 12.5 ms a frame: 40 frames a second
ARM, OBJECT = 1, 2  # labels of pixels; 0 is everything else


class Task(NamedTuple):
    """A task of Meta-World, and from where it is seen.

    Attributes:
        name: its name there.
        azimuth: of the fixed camera, in degrees.
    """

    name: str
    azimuth: float


TASKS = (
    Task("reach-v3", 135),
    Task("push-v3", 150),
    Task("pick-place-v3", 135),
    Task("drawer-open-v3", -45),
    Task("door-open-v3", 150),
    Task("button-press-v3", 120),
)


class Clip(NamedTuple):
    """A real clip.

    Attributes:
        name: short.
        camera: what it does.
    """

    name: str
    camera: str


PEDESTRIANS, BIKES = Clip("pedestrians", "fixed"), Clip("bikes", "moving")
CLIPS = (PEDESTRIANS, BIKES)
CLIP_FRAMES = 120
