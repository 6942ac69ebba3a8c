"""The rule of VLA-Cache: image patches that did not change are not computed anew."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from otprune.streaming.frames import PATCHES, Comparing, check_frame, check_patches, number


class StaticPatches(Comparing):
    """Keeps the tokens of image patches whose pixels changed since the previous frame.

    VLA-Cache (NeurIPS 2025): patches whose raw pixels have a cosine of at least `threshold` to
    those of the previous frame are static, and of these the most alike, up to 150 of 256, are
    reused. Reused tokens are those not kept here. Ties go to the earlier patch. A first frame, and
    one of another number of tokens than the one before, is kept whole. Memory is one frame.

    Needs `patches`, the pixels of each token, `(m, p)`, any real dtype and scale without offset
    (0 is black). The tokens' values are not looked at.

    Departures: VLA-Cache takes the patches that the text attends to most out of the reused ones,
    and varies their share from layer to layer by the entropy of attention. Both need the language
    model's attention and are left out. Black patches that stay black are static here; by the
    formula their cosine is 0.

    Args:
        threshold: in (-1, 1], the least cosine of a static patch.
        share: in (0, 1], the largest share of a frame's tokens that is reused; rounded down.

    Raises:
        OTPruneError: a number outside these limits.
    """

    needs: ClassVar[frozenset[str]] = PATCHES

    def __init__(self, threshold: float = 0.996, share: float = 150 / 256) -> None:
        super().__init__()
        self.threshold = number("threshold", threshold, above=-1.0, most=1.0)
        self.share = number("share", share, above=0.0, most=1.0)

    @torch.no_grad()
    def push(self, frame: Any, *, patches: Any = None) -> Tensor:
        """The next frame: indices of its tokens to keep; see `FrameSelector.push`."""
        tokens = check_frame(frame, None, patches, self.needs)
        alike = self._previous.cosine(check_patches(patches, tokens))
        kept = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
        if alike is not None:
            static = (alike >= self.threshold).nonzero().squeeze(1)
            order = alike[static].argsort(descending=True, stable=True)
            kept[static[order[: int(self.share * len(tokens))]]] = False
        return kept.nonzero().squeeze(1)

    def _settings(self) -> Tensor:
        return torch.tensor([self.threshold, self.share], dtype=torch.float64)
