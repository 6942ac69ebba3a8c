"""What selectors of streams share: their protocol, the checks of a frame, the frame before it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from otprune.checks import check_tokens
from otprune.errors import CueError, OTPruneError, TokenError
from otprune.numerics.normalize import unit_rows

NONE: frozenset[str] = frozenset()
PATCHES = frozenset({"patches"})


@runtime_checkable
class FrameSelector(Protocol):
    """Chooses tokens of frames that come one by one: one object a stream.

    `StreamSelector`, `DTD`, `StaticPatches` and `UniformStream` are such, and so is a class of your
    own with these members. What a selector does not need is not given to it; those here refuse it.
    """

    @property
    def needs(self) -> Collection[str]:
        """What `push` needs beside the frame: names of its keywords; "patches" or nothing."""

    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """Indices of the next frame's tokens to keep, `(k,)` int64, ascending; k may be 0.

        Args:
            frame: tokens `(m, d)`, any floating dtype; m may change from frame to frame.
            patches: the pixels that each token was made from, `(m, p)`, any real dtype.

        Raises:
            TokenError: the frame does not fit. The state is then unchanged, here and below.
            CueError: patches are needed and missing, given and not used, or do not fit.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next frames depend on."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue another selector of the same settings."""


def check_frame(frame: Any, features: int | None, patches: Any, needs: Collection[str]) -> Tensor:
    """One frame's tokens, `(m, d)`, as they are.

    Args:
        frame: what was pushed.
        features: d of the frames before it; None if there was none.
        patches: what was pushed beside it.
        needs: of the selector.

    Raises:
        TokenError, CueError: see `FrameSelector.push`.
    """
    tokens = check_tokens(frame)
    if tokens.ndim != 2:
        raise TokenError(f"a frame has shape {tuple(tokens.shape)}: expected (m, d)")
    if features is not None and tokens.shape[1] != features:
        raise TokenError(
            f"a frame has {tokens.shape[1]} features a token, those before had {features}: "
            "start a new selector for another encoder"
        )
    if patches is None and "patches" in needs:
        raise CueError("patches are missing: give push the pixels of each token, (m, p)")
    if patches is not None and "patches" not in needs:
        raise CueError("patches are given, but this selector chooses from tokens alone")
    return tokens


def check_patches(patches: Any, tokens: Tensor) -> Tensor:
    """Pixels of each token, `(m, p)` float32 on the tokens' device.

    Raises:
        CueError: they are no finite real numbers, or not one row a token.
    """
    try:
        if isinstance(patches, np.ndarray):
            patches = np.ascontiguousarray(patches)  # torch takes no negative strides
        x = torch.as_tensor(patches).detach().to(tokens.device)
    except (TypeError, ValueError, RuntimeError) as cause:
        raise CueError(f"patches are no array of numbers: {cause}") from cause
    if x.ndim != 2 or x.shape[0] != tokens.shape[0] or not x.numel():
        raise CueError(
            f"patches have shape {tuple(x.shape)}: expected (m, p) for tokens of shape "
            f"{tuple(tokens.shape)}"
        )
    if x.is_complex() or x.dtype == torch.bool:
        raise CueError(f"patches have dtype {x.dtype}: expected real numbers, such as uint8")
    x = x.float()
    if not bool(x.isfinite().all()):
        raise CueError("patches hold NaN or Inf (in float32): expected finite numbers")
    return x


class Previous:
    """The rows of the frame before, at unit length, and how alike the next frame's are.

    Attributes:
        rows: `(m, d)` float32; None before the first frame.
    """

    def __init__(self) -> None:
        self.rows: Tensor | None = None

    @property
    def features(self) -> int | None:
        """d of the rows; None before the first frame."""
        return None if self.rows is None else self.rows.shape[1]

    def cosine(self, rows: Tensor) -> Tensor | None:
        """Cosine of each row `(m, d)` to the one in its place before; then the rows are kept.

        None where there is nothing to compare with: the frame is the first, or has another number
        of rows than the one before. Rows that are zero in both frames are equal, so their cosine
        is 1.
        """
        before, self.rows = self.rows, unit_rows(rows.float().unsqueeze(0))[0]
        if before is None or before.shape != self.rows.shape:
            return None
        return cosine(before.to(self.rows.device), self.rows)

    def state_dict(self) -> dict[str, Tensor]:
        return {} if self.rows is None else {"rows": self.rows.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.rows = state["rows"].clone() if "rows" in state else None


class Comparing(ABC):
    """A selector of frames that depends on its settings and on the frame before."""

    def __init__(self) -> None:
        self._previous = Previous()

    def state_dict(self) -> dict[str, Tensor]:
        """All that the next frames depend on, as tensors."""
        return {"settings": self._settings(), **self._previous.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue another selector of the same settings.

        Raises:
            OTPruneError: the state is of other settings.
        """
        check_settings(state, self._settings(), type(self).__name__)
        self._previous.load_state_dict(state)

    @abstractmethod
    def _settings(self) -> Tensor:
        """`(n,)` float64."""


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of rows at unit length, `(..., d)` each; exactly 1 for equal rows, zero ones too.

    Rounding must not order copies: in a still scene most tokens are, and they tie.
    """
    alike = (a * b).sum(dim=-1).clamp(max=1.0)
    return torch.where((a == b).all(dim=-1), 1.0, alike)


def check_settings(state: dict[str, Tensor], settings: Tensor, name: str) -> None:
    """A state was saved by a selector of the same settings (NaN for None).

    Raises:
        OTPruneError: it was not.
    """
    found = state.get("settings")
    if found is None or not torch.equal(found.cpu().nan_to_num(-1.0), settings.nan_to_num(-1.0)):
        raise OTPruneError(
            f"the state belongs to other settings than this {name}'s: make one with "
            "the settings it was saved with"
        )
    for part in ("rows", "gram"):
        if part in state and state[part].dtype != torch.float32:
            raise OTPruneError(
                f"{part} of the state is {state[part].dtype}: expected torch.float32, as it was "
                "saved"
            )


def number(name: str, value: object, above: float, most: float = math.inf) -> float:
    """A real number in (above, most].

    Raises:
        OTPruneError: it is something else.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, Real)
        or not above < float(value) <= most
        or math.isinf(float(value))
    ):
        limit = "" if math.isinf(most) else f", at most {most:g}"
        raise OTPruneError(f"{name}={value!r}: expected a number above {above:g}{limit}")
    return float(value)


def whole(name: str, value: object, least: int) -> int:
    """A whole number, `least` or more.

    Raises:
        OTPruneError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise OTPruneError(f"{name}={value!r}: expected a whole number, {least} or more")
    return int(value)
