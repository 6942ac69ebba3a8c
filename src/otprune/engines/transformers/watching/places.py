"""Positions of what a session remembers: text, and frames that come one by one.

A `Place` says where the next tokens go. Text and frames follow each other, as in a prompt: with
1-D positions every remembered token counts one (the compact scheme), with M-RoPE a frame counts as
in the model's own prompt. Qwen2-VL and Qwen2.5-VL read the time of a frame from its position, so
their frames form one open-ended video: height and width start at the same position in all of them,
and the time axis advances with the seconds that passed since the video's first frame. Text ends the
video; it follows the largest position so far, on all axes, as in the published code of both models.
(transformers counts only height and width there, so that text behind a long video gets positions
inside the video's time; see docs/watch.md.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Segment:
    """Tokens that came together: some text, or one frame with the text around it.

    number: counts the segments of a session.
    frame: number of the frame; -1 for text.
    length: how far the segment moves the next one, in positions. Not used by 1-D positions, where
        it is the number of its tokens.
    ticks: time of the frame on the M-RoPE time axis, where frames form an open-ended video.
    tokens: number of the frame's tokens before the selection; 0 for text.
    """

    number: int
    frame: int
    length: int
    ticks: int | None = None
    tokens: int = 0


@dataclass(frozen=True)
class Place:
    """Where the next tokens go.

    next: the first free position.
    base: first position of the open-ended video; None if none is open.
    origin: ticks of its first frame.
    """

    next: int = 0
    base: int | None = None
    origin: int = 0

    def put(self, segment: Segment, offsets: Tensor) -> tuple[Tensor, Place]:
        """The positions of a segment's tokens, and the place behind it.

        Args:
            segment: the segment.
            offsets: `(axes, n)` int64, positions of its tokens from the start of the segment.

        Returns:
            `(axes, n)` int64, and the place.
        """
        axes, n = offsets.shape
        if axes == 1:
            count = torch.arange(n, device=offsets.device).unsqueeze(0)
            return count + self.next, replace(self, next=self.next + n)
        if segment.ticks is None:
            return offsets + self.next, Place(self.next + segment.length)
        base = self.next if self.base is None else self.base
        origin = segment.ticks if self.base is None else self.origin
        time = segment.ticks - origin
        moved = offsets + base
        moved[0] += time
        end = max(base + segment.length, int(moved.max()) + 1 if n else 0)
        return moved, Place(max(self.next, end), base, origin)
