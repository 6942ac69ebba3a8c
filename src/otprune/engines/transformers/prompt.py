"""The caller's prompt in front of what was generated from the pruned one.

Whatever a caller hands to generate() that looks at the ids so far counts on the prompt that the
caller gave: stopping criteria that skip `prompt_length` ids, processors, streamers. They see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """The caller's ids `(B, S)`, and the length `n` of the prompt that generate() works with."""

    ids: Tensor
    pruned_length: int

    def restore(self, ids: Tensor) -> Tensor:
        """`(B * r, n + new)` ids of the pruned prompt to `(B * r, S + new)` of the full one."""
        prompt = self.ids.repeat_interleave(len(ids) // len(self.ids), dim=0).to(ids.device)
        return torch.cat([prompt, ids[:, self.pruned_length :]], dim=1)

    def restore_row(self, row: int, ids: Tensor) -> Tensor:
        """`(n + new,)` ids of one row of the batch to `(S + new,)`."""
        return torch.cat([self.ids[row].to(ids.device), ids[self.pruned_length :]])

    def shown_to(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """generate()'s arguments with every callable of the caller's wrapped to see full ids."""
        shown: dict[str, Any] = {}
        for name in ("logits_processor", "stopping_criteria"):
            if arguments.get(name):
                items = arguments[name]
                shown[name] = type(items)(_OnFullIds(item, self) for item in items)
        if arguments.get("streamer") is not None:
            shown["streamer"] = _Streamer(arguments["streamer"], self)
        allowed: Callable[[int, Tensor], Any] | None = arguments.get("prefix_allowed_tokens_fn")
        if allowed is not None:
            shown["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(
                row, self.restore_row(row, ids)
            )
        return arguments | shown


class _OnFullIds:
    """A logits processor or stopping criterion, called with the full prompt's ids."""

    def __init__(self, inner: Any, prompt: Prompt) -> None:
        self._inner = inner
        self._prompt = prompt

    def __call__(self, input_ids: Tensor, scores: Any) -> Any:
        return self._inner(self._prompt.restore(input_ids), scores)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _Streamer:
    """A streamer whose first `put`, the prompt, is the caller's."""

    def __init__(self, inner: Any, prompt: Prompt) -> None:
        self._inner = inner
        self._prompt: Prompt | None = prompt

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.restore(value), None
        self._inner.put(value)

    def end(self) -> None:
        self._inner.end()
