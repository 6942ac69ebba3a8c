"""Room for what is new: which visual tokens leave a memory, and when it is laid out anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otprune.engines.transformers.watching.arguments import Forget
from otprune.engines.transformers.watching.places import Segment
from otprune.engines.transformers.watching.remembered import Remembered
from otprune.engines.transformers.watching.rotation import KeyRotation
from otprune.errors import OTPruneError
from otprune.selectors import Selector


@dataclass(frozen=True)
class Room:
    """How a session makes room.

    memory: the largest number of visual tokens.
    positions: of the model.
    reserve: how many of them stay free for a question and its answer.
    forget: what leaves, see `watch`.
    turn: turns cached keys to new positions.
    """

    memory: int
    positions: int
    reserve: int
    forget: Forget
    turn: KeyRotation

    def made(
        self, now: Remembered, indices: Tensor, segment: Segment, offsets: Tensor
    ) -> tuple[Remembered, Tensor]:
        """What is remembered, with room for new visual tokens in the memory, and for a segment in
        the positions.

        Args:
            indices: `(k,)`, the kept tokens of a frame; empty for text.
            segment, offsets: as for `Place.put`.

        Returns:
            What stays, and the features of the tokens that leave, `(p, d)`, if they are stored.

        Raises:
            OTPruneError: there can be no such room.
        """
        tokens = len(indices)
        if tokens > self.memory:
            raise OTPruneError(
                f"one frame keeps {tokens} tokens, and memory={self.memory}: raise memory, or "
                "lower what the selector keeps of a frame"
            )
        left: list[Tensor] = []

        def leave(gone: Tensor) -> Remembered:
            left.append(now.features[gone[now.visual]] if len(now.features) else now.features)
            return now.without(gone)

        if tokens and self.forget == "replaced":
            gone = now.replaced(segment.tokens, indices)
            now = leave(gone) if bool(gone.any()) else now
        excess = int(now.visual.sum()) + tokens - self.memory
        if excess > 0 and isinstance(self.forget, Selector):
            now = leave(_dispensable(now, self.forget))
            excess = int(now.visual.sum()) + tokens - self.memory
        if excess > 0:
            now = leave(_oldest(now, excess))
        most = self.positions - self.reserve
        if now.place.put(segment, offsets)[1].next > most:
            now = now.moved(self.turn)
        while now.place.put(segment, offsets)[1].next > most:
            if len(now) == now.opening:
                what = "one turn" if segment.frame < 0 else "one frame"
                raise OTPruneError(
                    f"{what} takes {segment.length} of the model's {self.positions} positions, "
                    "and there is no room for it: use smaller frames, and shorter questions"
                )
            # Text without older frames leaves too, even if there are no visual tokens at all.
            now = leave(_oldest(now, max(1, int(now.visual.sum()) // 4)))
            now = now.moved(self.turn)
        return now, torch.cat(left) if left else now.features[:0]


def _oldest(now: Remembered, number: int) -> Tensor:
    """`(n,)` bool, the visual tokens that came first."""
    return now.visual & (now.visual.cumsum(0) <= number)


def _dispensable(now: Remembered, selector: Selector) -> Tensor:
    """`(n,)` bool, the visual tokens that a selector does not keep."""
    stays = selector.select(now.features)
    gone = now.visual.clone()
    gone[now.visual.nonzero()[:, 0][stays.to(gone.device)]] = False
    return gone
