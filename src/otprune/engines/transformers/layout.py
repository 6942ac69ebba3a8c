"""Which columns of a prompt survive, and how the rows are padded afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A shrunk prompt as columns of the full one.

    columns: `(B, n)` column of the full prompt that each column of the shrunk one comes from, -1
        for padding that the full one does not have.
    valid: `(B, n)` bool, True at tokens, False at padding of either kind.
    width: S, columns of the full prompt.
    """

    columns: Tensor
    valid: Tensor
    width: int

    @classmethod
    def packed(cls, keep: Tensor, side: str) -> Layout:
        """The layout of the kept columns, with no more padding than the longest row asks for.

        Args:
            keep: `(B, S)` bool, False at padding and at dropped tokens.
            side: "left" or "right", where shorter rows are padded.
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
        """The layout in which each row ends where the full one does, column by column.

        Tokens move to the right into the place of dropped ones, so that everything behind a row's
        last dropped token keeps its distance from the end, padding included. Padding is added in
        front where a row lost more than another, and taken away in front where no row needs it.

        Args:
            stays: `(B, S)` bool, False at dropped tokens alone.
            mask: `(B, S)` bool, False at the caller's padding.
        """
        width = stays.shape[1]
        place = torch.arange(width, device=stays.device)
        # What stands in front of a row's first token is padding that nobody needs.
        begun = mask.int().cummax(dim=1).values.bool()
        needed = (stays & begun).sum(dim=1)
        n = max(int(needed.max()), 1)
        order = torch.argsort(stays.int(), dim=1, stable=True)[:, width - n :]
        there = place[:n] >= n - stays.sum(dim=1, keepdim=True)
        columns = order.masked_fill(~there, -1)
        return cls(columns, there & mask.gather(1, order), width)

    @property
    def dropped(self) -> int:
        """Columns that the prompt became shorter by."""
        return self.width - self.columns.shape[1]

    def take(self, x: Tensor, fill: int) -> Tensor:
        """`(..., B, S)` or `(..., 1, S)` to `(..., B, n)`, `fill` at padding that is new."""
        x = x.expand(*x.shape[:-2], *(self.columns.shape[0], x.shape[-1]))
        columns = self.columns.to(x.device).expand(*x.shape[:-2], *self.columns.shape)
        return torch.gather(x, -1, columns.clamp(min=0)).masked_fill(columns < 0, fill)

    def nearest(self) -> Tensor:
        """`(B, S)`: for each column of the full prompt, the column of the shrunk one that holds it.

        For a dropped column that of the last one in front of it, -1 where there is none.
        """
        rows, n = self.columns.shape
        place = torch.arange(n, device=self.columns.device).expand(rows, n)
        # One column more takes what comes from nowhere.
        found = self.columns.new_full((rows, self.width + 1), -1)
        found.scatter_(1, self.columns.where(self.columns >= 0, self.width), place)
        return found[:, : self.width].cummax(dim=1).values

    def keeps_last(self, number: int) -> bool:
        """Whether the last columns, `number` of them, are the full prompt's last."""
        if number > self.columns.shape[1]:
            return False
        last = torch.arange(self.width - number, self.width, device=self.columns.device)
        return bool((self.columns[:, self.columns.shape[1] - number :] == last).all())

    def extended(self, width: int) -> Layout:
        """The layout of a longer full prompt, `width` columns, all of whose new ones survive."""
        rows = self.columns.shape[0]
        new = torch.arange(self.width, width, device=self.columns.device).expand(rows, -1)
        columns = torch.cat([self.columns, new], dim=1)
        return Layout(columns, torch.cat([self.valid, torch.ones_like(new).bool()], dim=1), width)

    def rows(self, indices: Tensor) -> Layout:
        """The rows `(b,)`, as a cache repeats, selects or reorders them."""
        indices = indices.to(self.columns.device)
        return Layout(self.columns[indices], self.valid[indices], self.width)
