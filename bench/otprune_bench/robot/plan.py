"""What `otprune bench robot` measures: where frames come from, how many tokens of each are kept.

Light, since the simulator's side imports it too.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

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

STREAM, LOW, FIXED = "stream", "stream, novelty 0.01", "fixed camera"
DTD, STATIC, EVS, VIDCOM2 = "dtd", "static patches", "evs", "vidcom2"
UNIFORM, VIDEO = "uniform", "all frames at hand"
# At equal tokens, in the order of tables; the last three need the whole clip.
METHODS = (FIXED, LOW, DTD, STATIC, UNIFORM, EVS, VIDCOM2, VIDEO)
AS_OWN = (FIXED, DTD, STATIC, UNIFORM, VIDCOM2)  # beside the stream as it is by default
ALL = "all tokens"
MADE = "stickers"
RATE = 16  # of the stream as it is by default
OWN = "as many as the stream"
PICTURE = "pick-place-v3"  # the episode that is shown
EVENT = 0.005  # metres from which an object has moved

MEASURES = {
    "tokens": ("tokens a frame", 1, "", 1),
    "arm": ("kept ones on the arm", 100, "%", 0),
    "object": ("on the object", 100, "%", 1),
    "arm_covered": ("arm covered", 100, "%", 0),
    "object_covered": ("object covered", 100, "%", 0),
    "seen": ("seen at once", 100, "%", 0),
    "lag": ("frames until seen", 1, "", 1),
    "place": ("error in place", 1, "", 3),
    "place_arm": ("arm", 1, "", 3),
    "place_object": ("object", 1, "", 3),
    "look": ("error anywhere", 1, "", 3),
    "look_arm": ("arm", 1, "", 3),
    "look_object": ("object", 1, "", 3),
    "gaussian_w2": ("Gaussian W2²", 1, "", 3),
    "free_mass_w2": ("free-mass W2²", 1, "", 3),
    "milliseconds": ("ms a frame", 1, "", 2),
}


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        episodes, clips: names; those whose files are not there are left out.
        noises: standard deviations of the sensor's noise on episodes, in grey levels of 255; all
            but the last are measured at `RATE` tokens alone.
        tokens: of each frame that is kept on average; every method is set to it.
        shots, length: of the video of stickers, which is made on the spot.
        every: frames from one to the next of which distances and errors anywhere are measured.
    """

    seed: int = 0
    episodes: tuple[str, ...] = tuple(task.name for task in TASKS)
    clips: tuple[str, ...] = tuple(clip.name for clip in CLIPS)
    noises: tuple[float, ...] = (0.0, 2.0)
    tokens: tuple[int, ...] = (8, 16, 32)
    shots: int = 3
    length: int = 24
    every: int = 4

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return asdict(self)


FULL = Plan()
QUICK = Plan(episodes=(), clips=(), tokens=(16,), shots=2, length=9)


def key(name: str, noise: float | None = None) -> str:
    """A case's name."""
    return name if noise is None else f"{name}, noise {noise:g}"
