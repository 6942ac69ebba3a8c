"""Which columns of a prompt are kept, and how the sequences are padded afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A shortened prompt, as columns of the full one.

    columns: `(B, n)` int64, column of the full prompt that each column of the shortened one comes
        from, -1 for added padding.
    valid: `(B, n)` bool, True at tokens, False at padding, old or added.
    width: S, the number of columns of the full prompt.
    """

    columns: Tensor
    valid: Tensor
    width: int

    @classmethod
    def packed(cls, keep: Tensor, side: str) -> Layout:
        """The kept columns, padded to the longest sequence.

        Args:
            keep: `(B, S)` bool, False at padding and at dropped tokens.
            side: "left" or "right", where shorter sequences are padded.
        """
        number = keep.sum(dim=1, keepdim=True)
        n = int(number.max())
        place = torch.arange(n, device=keep.device).unsqueeze(0)
        if side == "left":
            columns = torch.argsort(keep.int(), dim=1, stable=True)[:, keep.shape[1] - n :]
            valid = place >= n - number
        else:
            columns = torch.argsort((~keep).int(), dim=1, stable=True)[:, :n]
            valid = place < number
        return cls(columns.masked_fill(~valid, -1), valid, keep.shape[1])

    @classmethod
    def aligned(cls, stays: Tensor, mask: Tensor) -> Layout:
        """The kept columns, right-aligned with the full prompt.

        Everything after a sequence's last dropped token keeps its distance from the end, including
        padding on the right. Sequences that lost more tokens than others are padded on the left.
        Columns on the left that are padding in every sequence are removed.

        Args:
            stays: `(B, S)` bool, False only at dropped tokens.
            mask: `(B, S)` bool, False at the caller's padding.
        """
        width = stays.shape[1]
        place = torch.arange(width, device=stays.device)
        # Padding before a sequence's first token need not be kept.
        begun = mask.int().cummax(dim=1).values.bool()
        needed = (stays & begun).sum(dim=1)
        n = max(int(needed.max()), 1)
        order = torch.argsort(stays.int(), dim=1, stable=True)[:, width - n :]
        there = place[:n] >= n - stays.sum(dim=1, keepdim=True)
        columns = order.masked_fill(~there, -1)
        return cls(columns, there & mask.gather(1, order), width)

    @property
    def dropped(self) -> int:
        """Number of columns by which the prompt became shorter."""
        return self.width - self.columns.shape[1]

    def take(self, x: Tensor, fill: float) -> Tensor:
        """`(..., B, S)` or `(..., 1, S)` to `(..., B, n)`, with `fill` at added padding."""
        x = x.expand(*x.shape[:-2], *(self.columns.shape[0], x.shape[-1]))
        columns = self.columns.to(x.device).expand(*x.shape[:-2], *self.columns.shape)
        return torch.gather(x, -1, columns.clamp(min=0)).masked_fill(columns < 0, fill)

    def nearest(self) -> Tensor:
        """`(B, S)`: for each column of the full prompt, its column in the shortened one.

        A dropped column gets that of the last kept column before it, -1 if there is none.
        """
        rows, n = self.columns.shape
        place = torch.arange(n, device=self.columns.device).expand(rows, n)
        # Added padding is scattered into an extra column, which is cut off.
        found = self.columns.new_full((rows, self.width + 1), -1)
        found.scatter_(1, self.columns.where(self.columns >= 0, self.width), place)
        return found[:, : self.width].cummax(dim=1).values

    def keeps_last(self, number: int) -> bool:
        """Whether the last `number` columns are those of the full prompt."""
        if number > self.columns.shape[1]:
            return False
        last = torch.arange(self.width - number, self.width, device=self.columns.device)
        return bool((self.columns[:, self.columns.shape[1] - number :] == last).all())

    def extended(self, width: int) -> Layout:
        """The layout of a full prompt with `width` columns, all additional ones kept."""
        rows = self.columns.shape[0]
        new = torch.arange(self.width, width, device=self.columns.device).expand(rows, -1)
        columns = torch.cat([self.columns, new], dim=1)
        return Layout(columns, torch.cat([self.valid, torch.ones_like(new).bool()], dim=1), width)

    def rows(self, indices: Tensor) -> Layout:
        """The sequences with these indices `(b,)`, as a cache repeats or reorders them."""
        indices = indices.to(self.columns.device)
        return Layout(self.columns[indices], self.valid[indices], self.width)
