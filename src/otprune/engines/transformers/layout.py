"""Which columns of a prompt survive, and how the rows are padded afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """A shrunk prompt as columns of the full one.

    columns: `(B, n)` column of the full prompt that each column of the shrunk one comes from.
    valid: `(B, n)` bool, False where the shrunk prompt is padding.
    width: S, columns of the full prompt.
    """

    columns: Tensor
    valid: Tensor
    width: int

    @classmethod
    def of(cls, keep: Tensor, side: str) -> Layout:
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
            return cls(columns, place >= n - number, keep.shape[1])
        columns = torch.argsort((~keep).int(), dim=1, stable=True)[:, :n]
        return cls(columns, place < number, keep.shape[1])

    @property
    def dropped(self) -> int:
        """Columns that the prompt became shorter by."""
        return self.width - self.columns.shape[1]

    def take(self, x: Tensor, fill: int) -> Tensor:
        """`(..., B, S)` or `(..., 1, S)` to `(..., B, n)`, `fill` at padding."""
        x = x.expand(*x.shape[:-2], *(self.columns.shape[0], x.shape[-1]))
        columns = self.columns.to(x.device).expand(*x.shape[:-2], *self.columns.shape)
        return torch.gather(x, -1, columns).masked_fill(~self.valid.to(x.device), fill)

    def extended(self, width: int) -> Layout:
        """The layout of a longer full prompt, `width` columns, all of whose new ones survive."""
        rows = self.columns.shape[0]
        new = torch.arange(self.width, width, device=self.columns.device).expand(rows, -1)
        columns = torch.cat([self.columns, new], dim=1)
        return Layout(columns, torch.cat([self.valid, torch.ones_like(new).bool()], dim=1), width)

    def repeated(self, times: int) -> Layout:
        """Every row `times` times, as beams and return sequences stand."""
        columns = self.columns.repeat_interleave(times, dim=0)
        return Layout(columns, self.valid.repeat_interleave(times, dim=0), self.width)
