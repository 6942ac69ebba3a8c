"""Turning cached keys to other positions.

A layer turns its keys by angles that are linear in the position, so a cached key moves from
position p to p' if it is turned by the angles of p' - p. Values do not depend on positions. What
earlier layers computed does, through the distances at that time; it stays as it was.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.rotary import rotary_of
from otprune.errors import UnsupportedError

_APPLY = "apply_rotary_pos_emb"


class KeyRotation:
    """Turns the cached keys of a model's layers.

    Raises:
        UnsupportedError: it is not known that all layers turn all keys by one rotary embedding.
    """

    def __init__(self, model: Any) -> None:
        name = type(model).__name__
        try:
            self._rotary = rotary_of(model)
        except UnsupportedError as error:
            reason = str(error).removeprefix("distance: ").removesuffix(": use distance=False")
            raise UnsupportedError(
                f"a session moves cached keys to other positions once the model runs out of "
                f"positions, and that cannot be done here: {reason}"
            ) from None
        self._types = self._rotary.layer_types
        module = sys.modules[type(model.get_decoder()).__module__]
        apply: Callable[..., Any] | None = getattr(module, _APPLY, None)
        if apply is None or list(inspect.signature(apply).parameters)[:4] != [
            "q",
            "k",
            "cos",
            "sin",
        ]:
            raise UnsupportedError(
                f"{name}: this release of transformers does not say how its language model turns "
                "keys, so a session cannot move them: use a newer one"
            )
        self._apply = apply

    @torch.no_grad()
    def __call__(self, keys: list[Tensor], shift: Tensor) -> list[Tensor]:
        """The keys, moved.

        Args:
            keys: `(1, heads, n, d)` of each layer.
            shift: `(axes, n)` int64, what is added to the position of each.
        """
        positions = shift if len(shift) == 1 else shift.unsqueeze(1)
        angles: dict[str | None, tuple[Tensor, Tensor]] = {}
        moved = []
        for i, key in enumerate(keys):
            kind = None if self._types is None else self._types[i]
            if kind not in angles:
                cos, sin = self._rotary.features(positions, kind).chunk(2, dim=-1)
                angles[kind] = cos, sin
            cos, sin = (x.to(key.device) for x in angles[kind])
            turned, _ = self._apply(key.float(), key.float()[:, :1], cos, sin)
            moved.append(turned.to(key.dtype))
        return moved
