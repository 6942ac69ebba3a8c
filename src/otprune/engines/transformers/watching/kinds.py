"""How the frames of a stream enter each family, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Kind:
    """How one family gets a frame.

    modality: "image", or "video" of one frame where the family has fewer tokens, or time stamps,
        for frames of a video.
    clock: the frames of a turn form one open-ended video, and its time axis counts in:
        "seconds"   one position a second;
        "config"    `vision_config.tokens_per_second` positions a second;
        None        every frame is a video or an image of its own.
    least: frames that the family's video processor takes at least; a frame is repeated.
    stamped: whether the processor itself puts a time stamp and delimiters around every frame, so
        that those of the chat template, which stand around a whole video, are left out.
    options: arguments of the processor: a frame is one tile, as frames of a video are.
    """

    modality: Literal["image", "video"] = "image"
    clock: Literal["seconds", "config"] | None = None
    least: int = 1
    stamped: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def ticks(self, config: Any, times: Sequence[float]) -> list[int]:
        """The time in positions of each temporal patch of a frame or a chunk of frames.

        That of its first frame; none without an open-ended video.
        """
        if self.clock is None:
            return []
        rate = config.vision_config.tokens_per_second if self.clock == "config" else 1
        return [int(time * rate) for time in times[:: self.least]]


_DEFAULT = Kind()
_KINDS = {
    "llava_next_video": Kind("video"),
    "llava_onevision": Kind("video"),
    # Two frames make a temporal patch, and patches of training videos were a second apart.
    "qwen2_vl": Kind("video", "seconds", least=2),
    "qwen2_5_vl": Kind("video", "config", least=2),
    "qwen3_vl": Kind("video", least=2, stamped=True),
    "qwen3_vl_moe": Kind("video", least=2, stamped=True),
    "idefics3": Kind(options={"do_image_splitting": False}),
    "internvl": Kind(options={"crop_to_patches": False}),
    "smolvlm": Kind(options={"do_image_splitting": False}),
}


def kind_of(config: Any) -> Kind:
    """The entry for a model's config."""
    return _KINDS.get(getattr(config, "model_type", ""), _DEFAULT)
