"""Arguments and results of generate() that refer to the caller's full prompt.

Stopping criteria, logits processors and streamers get the ids so far, and may depend on the length
of the prompt. They are called with the full prompt in front, and the returned ids start with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.errors import OTPruneError, UnsupportedError

# Arguments of generate() that do not work with a shortened prompt.
_REFUSED = (
    ("token_healing", True, "it would tokenize the shortened prompt anew"),
    ("cache_implementation", "paged", "continuous batching takes no images"),
)


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
        """The same for one sequence, `(n + new,)` to `(S + new,)`."""
        return torch.cat([self.ids[row].to(ids.device), ids[self.pruned_length :]])

    def showing_full_ids(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """generate()'s arguments, with the caller's callables wrapped to get the full ids."""
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
        if name.startswith("_"):  # also while a copy has no _inner yet
            raise AttributeError(name)
        return getattr(self._inner, name)


class _Streamer:
    """A streamer whose first `put` gets the caller's full prompt."""

    def __init__(self, inner: Any, prompt: Prompt) -> None:
        self._inner = inner
        self._prompt: Prompt | None = prompt

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.restore(value), None
        self._inner.put(value)

    def end(self) -> None:
        self._inner.end()


def refuse(model: Any, arguments: dict[str, Any]) -> None:
    """Raise UnsupportedError for settings of generate() that cannot be combined with pruning."""
    for name, value, why in _REFUSED:
        if setting(model, arguments, name) == value:
            raise UnsupportedError(f"{name}={value!r} with pruning: {why}; leave it out")


def with_lengths(model: Any, arguments: dict[str, Any], dropped: int) -> dict[str, Any]:
    """generate()'s arguments with max_length and min_length reduced by the dropped tokens.

    Both count the prompt. They are changed where they were set (a generation config is copied). If
    max_new_tokens or min_new_tokens is set, transformers uses that instead.
    """
    config = arguments.get("generation_config")
    changed: dict[str, Any] = {}
    for bound in ("max", "min"):
        name = f"{bound}_length"
        length = setting(model, arguments, name)
        if length is None or setting(model, arguments, f"{bound}_new_tokens") is not None:
            continue
        length = max(0, length - dropped)
        if config is None or arguments.get(name) is not None:
            changed[name] = length
        else:
            config = changed["generation_config"] = copy.deepcopy(config)
            setattr(config, name, length)
    return arguments | changed


def with_mask(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """generate()'s arguments with the attention mask that it would infer if none is given.

    The pad token is then padding, unless it is also an end-of-sequence token.
    """
    ids = arguments.get("input_ids")
    if ids is None or arguments.get("attention_mask") is not None:
        return arguments
    pad = setting(model, arguments, "pad_token_id")
    eos = setting(model, arguments, "eos_token_id")
    if pad is None or pad in (eos if isinstance(eos, (list, tuple)) else [eos]):
        return arguments
    return arguments | {"attention_mask": (ids != pad).long()}


def new_tokens(model: Any, arguments: dict[str, Any]) -> int:
    """The largest number of tokens that generate() may add, with the caller's full prompt."""
    new = setting(model, arguments, "max_new_tokens")
    if new is not None:
        return int(new)
    length = setting(model, arguments, "max_length")
    if length is None:
        return 20  # transformers' own default
    return int(length) - int(arguments["input_ids"].shape[1])


def check_lengths(model: Any, arguments: dict[str, Any]) -> None:
    """Raise OTPruneError if max_length leaves no room after the caller's prompt."""
    prompt = int(arguments["input_ids"].shape[1])
    if setting(model, arguments, "max_new_tokens") is None and new_tokens(model, arguments) <= 0:
        raise OTPruneError(
            f"max_length={setting(model, arguments, 'max_length')} leaves no room behind a prompt "
            f"of {prompt} tokens, which it counts as they are before pruning: set max_new_tokens, "
            "or a larger max_length"
        )


def setting(model: Any, arguments: dict[str, Any], name: str) -> Any:
    """A setting of generate(): of the call, else its generation config, else the model's."""
    if arguments.get(name) is not None:
        return arguments[name]
    for config in (arguments.get("generation_config"), model.generation_config):
        value = getattr(config, name, None)
        if value is not None:
            return value
    return None
