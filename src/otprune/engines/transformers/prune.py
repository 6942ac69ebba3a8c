"""`with prune(model, selector):` - ordinary calls of the model, with visual tokens pruned."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from otprune.engines.transformers.families import check
from otprune.engines.transformers.inputs import Pruned, Shrunk, has_pictures, shrink
from otprune.engines.transformers.memory import (
    Memory,
    length_of,
    next_step,
    next_turn,
    recall,
    remember,
)
from otprune.engines.transformers.positions import Positions, check_positions
from otprune.engines.transformers.prompt import Prompt
from otprune.errors import UnsupportedError

if TYPE_CHECKING:
    from otprune.selectors import Selector


class Run:
    """What `with prune(...) as run` gives: a look at the last call.

    last: one entry for each image and video of the last call, in prompt order; empty after a call
        without any; None before the first call. Decoding steps on a cache leave it as it is.
    """

    def __init__(self) -> None:
        self.last: list[Pruned] | None = None


@contextmanager
def prune(
    model: PreTrainedModel,
    selector: Selector,
    positions: Positions = "preserved",
    merge: bool = False,
) -> Iterator[Run]:
    """Prune visual tokens in every `model(...)` and `model.generate(...)` of the with block.

    The prompt becomes shorter before the model sees it, so cache, mask, beams and decoding follow
    by themselves. Of m tokens of an image `selector.count(m)` are kept, of a video as many over all
    its frames; anyres newline rows are tokens like any other. generate() returns the caller's
    prompt in front of the answer. A cache made inside knows its prompt; go on with it inside.

    Args:
        model: a model that `support` accepts.
        selector: any selector of `otprune.selectors`.
        positions: "preserved" (kept tokens stay where they were) or "compact" (counted anew).
        merge: kept tokens become the mean of the tokens that they stand for.

    Raises:
        UnsupportedError: the model cannot be pruned, is being pruned already, or a call asks for
            what would go wrong; says which and why.
        OTPruneError: an argument is wrong, or placeholders and features differ in number.
    """
    check(model)
    check_positions(positions)
    engine = _Engine(model, selector, positions, merge)
    engine.install()
    try:
        yield engine.run
    finally:
        engine.remove()


class _Engine:
    """The two ways into a model, generate() and forward(), and what lies between them."""

    def __init__(self, model: Any, selector: Selector, positions: Positions, merge: bool) -> None:
        self.run = Run()
        self._model = model
        self._shrink = functools.partial(
            shrink, model, selector=selector, positions=positions, merge=merge
        )
        self._inside_generate = False
        self._gaps = False  # inside generate(): one-dimensional positions with gaps
        self._pending: Memory | None = None  # between forward's two hooks

    def install(self) -> None:
        own = vars(self._model).get("generate")
        if hasattr(own, "_otprune"):
            raise UnsupportedError(
                f"this {type(self._model).__name__} is being pruned already: leave that with block "
                "first"
            )
        self._own_generate = own
        self._generate = self._model.generate

        @functools.wraps(self._generate)
        def generate(*args: Any, **kwargs: Any) -> Any:
            return self.generate(_by_name(self._generate, args, kwargs))

        generate._otprune = True  # type: ignore[attr-defined]
        self._model.generate = generate
        self._hooks = [
            self._model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            self._model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        del self._model.generate
        if self._own_generate is not None:
            self._model.generate = self._own_generate

    # -- generate ----------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, arguments: dict[str, Any]) -> Any:
        inputs = arguments.pop("inputs", None)
        if inputs is not None:
            if arguments.get("input_ids") is not None:
                raise UnsupportedError("both inputs and input_ids: pass the prompt once")
            arguments["input_ids"] = inputs
        cache = arguments.get("past_key_values")
        memory = recall(cache)
        if has_pictures(arguments):
            _refuse(arguments, cache)
            arguments = self._with_mask(arguments)
            shrunk = self._shrink(arguments, padding_side="left")
            self.run.last = shrunk.items
        elif memory is not None:
            layout = memory.layout.extended(arguments["input_ids"].shape[1])
            shrunk = Shrunk(next_turn(self._model, arguments, memory), [], layout, memory.positions)
        else:
            self.run.last = []
            shrunk = Shrunk(arguments, [])
        if shrunk.layout is None or shrunk.positions is None:
            return self._call_generate(shrunk.inputs, gaps=False)

        ids = arguments["input_ids"]
        if memory is None:
            memory = Memory(ids, shrunk.layout, shrunk.positions)
        remember(cache, memory)
        prompt = Prompt(ids, shrunk.inputs["input_ids"].shape[1])
        shortened = prompt.shown_to(self._with_lengths(shrunk.inputs, shrunk.layout.dropped))
        out = self._call_generate(shortened, gaps=shrunk.positions.ndim == 2)
        if isinstance(out, Tensor):
            return prompt.restore(out)
        remember(getattr(out, "past_key_values", None), memory)
        out.sequences = prompt.restore(out.sequences)
        return out

    def _call_generate(self, arguments: dict[str, Any], gaps: bool) -> Any:
        self._inside_generate, self._gaps = True, gaps
        try:
            return self._generate(**arguments)
        finally:
            self._inside_generate = self._gaps = False

    def _with_mask(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Without a mask generate() takes padding ids for padding, unless they also end a text."""
        if arguments.get("attention_mask") is not None or arguments.get("input_ids") is None:
            return arguments
        pad = self._setting(arguments, "pad_token_id")
        eos = self._setting(arguments, "eos_token_id")
        ends = eos if isinstance(eos, (list, tuple)) else [eos]
        if pad is None or pad in ends:
            return arguments
        return arguments | {"attention_mask": (arguments["input_ids"] != pad).long()}

    def _with_lengths(self, arguments: dict[str, Any], dropped: int) -> dict[str, Any]:
        """max_length and min_length count the prompt: as many tokens less."""
        changed = {}
        for name in ("max_length", "min_length"):
            length = self._setting(arguments, name)
            if length is not None:
                changed[name] = max(0, length - dropped)
        return arguments | changed

    def _setting(self, arguments: dict[str, Any], name: str) -> Any:
        """A generation setting, from the most particular place that sets it."""
        if arguments.get(name) is not None:
            return arguments[name]
        for config in (arguments.get("generation_config"), self._model.generation_config):
            if getattr(config, name, None) is not None:
                return getattr(config, name)
        return None

    # -- forward -----------------------------------------------------------------------------

    def _before_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        arguments = _by_name(model.forward, args, kwargs)
        if self._inside_generate:
            return self._fill_gaps(arguments)
        self._pending = None
        cache = arguments.get("past_key_values")
        if has_pictures(arguments):
            _refuse(arguments, cache)
            mask = arguments.get("attention_mask")
            right = isinstance(mask, Tensor) and mask.ndim == 2 and bool((mask[:, -1] == 0).any())
            shrunk = self._shrink(arguments, padding_side="right" if right else "left")
            self.run.last = shrunk.items
            if shrunk.layout is not None and shrunk.positions is not None:
                self._pending = Memory(arguments["input_ids"], shrunk.layout, shrunk.positions)
            return (), shrunk.inputs
        memory = recall(cache)
        if memory is not None:
            return (), next_step(arguments, memory, length_of(cache))
        if length_of(cache) == 0:
            self.run.last = []
        return None

    def _fill_gaps(
        self, arguments: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Without mask and cache, transformers reads gaps in positions as packed sequences."""
        cached = arguments.get("past_key_values") is not None
        if not self._gaps or cached or arguments.get("attention_mask") is not None:
            return None
        return (), arguments | {"attention_mask": torch.ones_like(arguments["input_ids"])}

    def _after_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        memory, self._pending = self._pending, None
        if memory is None or self._inside_generate:
            return
        for value in out if isinstance(out, tuple) else (getattr(out, "past_key_values", None),):
            if hasattr(value, "get_seq_length"):
                remember(value, memory)


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name, positional ones named as the signature does."""
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, args, strict=False)) | kwargs


def _refuse(arguments: dict[str, Any], cache: Any) -> None:
    """What cannot come together with pictures."""
    if length_of(cache):
        raise UnsupportedError(
            "new pictures on a cache that is not empty: prune the whole conversation at once, with "
            "a new cache"
        )
    config = arguments.get("generation_config")
    for name, refused, why in (
        ("token_healing", True, "it would tokenize the shortened prompt anew"),
        ("cache_implementation", "paged", "continuous batching takes no pictures"),
    ):
        value = arguments.get(name)
        if (getattr(config, name, None) if value is None else value) == refused:
            raise UnsupportedError(f"{name}={refused!r} with pruning: {why}; leave it out")
