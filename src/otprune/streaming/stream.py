"""Frames one by one, without end: bounded memory, bounded time a frame."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune.errors import TokenError
from otprune.greedy.threshold import above
from otprune.greedy.ties import preference
from otprune.numerics import threads
from otprune.numerics.normalize import norms, unit_rows
from otprune.streaming.bucket import Budgeted
from otprune.streaming.frames import NONE, check_frame, check_settings, number, whole
from otprune.streaming.novelty import NOISE, Sketch


class StreamSelector(Budgeted):
    """Chooses tokens frame by frame, knowing what it kept of earlier frames.

    Two parts. *Novelty*: the share of a token's squared length that the tokens kept so far leave
    unexplained, 1 for a token orthogonal to them all, about 0.01 for a copy
    (`otprune.streaming.novelty`, also for where this departs from OTPrune). What was kept is held
    as a sketch of `rank` directions, so novelty may be overestimated, never underestimated (with
    `forget` it may be either, once the sketch holds less than what was kept).

    *Budget*: a bucket of `burst` tokens, full at the start, gets `rate` tokens a frame and pays for
    every kept one, so T frames keep at most `burst + rate * T`. A token is kept if its novelty
    reaches the price `novelty ** (tokens left in the bucket / burst)`: `novelty` while the bucket
    is full, rising to 1, which no token reaches, as it empties (the prices of online knapsack:
    Zhou, Chakrabarty and Lukose, WINE 2008). A still scene saves tokens, a cut spends them, and
    under steady motion as many are kept as come in. `rate` is a bound: where a few hundred tokens
    span a scene, such as a robot's, far fewer are new; `novelty=0.01` spends it.

    Deterministic: the same frames give the same tokens. One selector a stream; memory is
    `1.25 * rank` tokens, time a frame O(m d rank) for m tokens of d features, however long the
    stream. A frame keeps none, one or many, so the host waits for the device, a few times a frame.

    Args:
        rate: tokens a frame on average, more than 0.
        floor: the least number kept of a frame, at most `rate`.
        ceiling: the largest number kept of a frame; None for as many as the bucket holds.
        burst: capacity of the bucket, at least `rate`; None for 8 frames' worth, and at least one
            token.
        novelty: in (0, 1), the least novelty of a kept token (beyond the floor).
        rank: directions of the sketch; from d on it is exact.
        half_life: frames after which kept tokens count half, so that a lasting scene is kept again
            in time; None for no forgetting.

    Raises:
        OTPruneError: a number outside these limits.
    """

    needs: ClassVar[frozenset[str]] = NONE

    def __init__(
        self,
        rate: float,
        *,
        floor: int = 0,
        ceiling: int | None = None,
        burst: float | None = None,
        novelty: float = 0.05,
        rank: int = 256,
        half_life: float | None = None,
    ) -> None:
        super().__init__(rate, floor, ceiling, burst, novelty)
        self.rank = whole("rank", rank, least=1)
        self.half_life = None if half_life is None else number("half_life", half_life, above=0.0)
        self._sketch: Sketch | None = None

    @torch.no_grad()
    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """The next frame: indices of its tokens to keep, `(k,)` int64, ascending; k may be 0.

        Args:
            frame: `(m, d)`, any floating dtype, computed in float32; m may change from frame to
                frame, d may not.
            patches: None; see `FrameSelector`.

        Raises:
            TokenError: the frame is not a finite floating array of that shape. The state
                is then unchanged.
            CueError: patches are given, which this selector does not use.
        """
        before = None if self._sketch is None else self._sketch.rows.shape[1]
        tokens = check_frame(frame, before, patches, self.needs)
        if self._sketch is None:
            empty = tokens.new_empty((0, tokens.shape[1]), dtype=torch.float32)
            self._sketch = Sketch(self.rank, empty, empty[:, :0])
        sketch = self._sketch
        sketch.to(tokens.device)
        if self.half_life is not None:
            sketch.forget(0.5 ** (1 / self.half_life))
        self._fill()
        prices = self._prices(tokens)
        if not len(prices):
            return torch.empty(0, dtype=torch.int64, device=tokens.device)
        with threads.single(), torch.autocast(tokens.device.type, enabled=False):
            kept = self._choose(tokens.float().unsqueeze(0), prices, sketch)
        self._left -= len(kept)
        return kept

    @torch.no_grad()
    def forget(self, tokens: Any) -> None:
        """Tokens that were kept and are remembered no longer: what is like them is new again.

        Without this, something that stays in view is kept once, and not again after the kept
        tokens have left the memory of whoever keeps them. The budget is not given back.

        Args:
            tokens: `(p, d)`, as they were pushed.

        Raises:
            TokenError: the tokens are not a finite floating array of that shape.
        """
        sketch = self._sketch
        if sketch is None:
            raise TokenError("tokens to forget, and no frame was pushed yet")
        gone = check_frame(tokens, sketch.rows.shape[1], None, self.needs)
        sketch.to(gone.device)
        with threads.single(), torch.autocast(gone.device.type, enabled=False):
            sketch.remove(unit_rows(gone.float().unsqueeze(0))[0])

    def _choose(self, batch: Tensor, prices: Tensor, sketch: Sketch) -> Tensor:
        points = unit_rows(batch)[0]
        products, known = sketch.explain(points)
        novelty = points.square().sum(dim=-1) - known.square().sum(dim=0)
        # Novelty only falls while tokens are kept: a token below the first price stays below.
        candidates = (novelty >= prices[0]).nonzero().squeeze(1)
        if not len(candidates):
            return candidates
        x, w = points[candidates], known[:, candidates]
        rank = preference(norms(batch)[:, candidates])[0]
        order, _ = above(x @ x.mT - w.mT @ w, prices, rank, NOISE)
        kept = candidates[order].sort().values
        sketch.add(points[kept], products[:, kept])
        return kept

    # -- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next frames depend on, as tensors (`safetensors` can save them)."""
        settings = [*self._settings, self.rank, self.half_life]
        given = [math.nan if x is None else float(x) for x in settings]
        state = {"settings": torch.tensor(given, dtype=torch.float64)}
        lost = 0.0
        if self._sketch is not None:
            state |= {"rows": self._sketch.rows.clone(), "gram": self._sketch.gram.clone()}
            lost = self._sketch.lost
        state["numbers"] = torch.tensor([self._left, lost], dtype=torch.float64)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue another selector of the same settings, with bit-identical choices.

        Raises:
            OTPruneError: the state is not one of a StreamSelector of these settings.
        """
        check_settings(state, self.state_dict()["settings"], "StreamSelector")
        left, lost = state["numbers"].tolist()
        self._left = float(left)
        self._sketch = None
        if "rows" in state:
            rows, gram = state["rows"].clone(), state["gram"].clone()
            self._sketch = Sketch(self.rank, rows, gram, float(lost))
