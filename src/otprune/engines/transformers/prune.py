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

from otprune.engines.transformers.continuing import next_step, next_turn
from otprune.engines.transformers.families import check
from otprune.engines.transformers.inputs import Pruned, has_pictures, shrink
from otprune.engines.transformers.memory import Memory, length_of, recall, remember
from otprune.engines.transformers.positions import Positions, check_positions
from otprune.engines.transformers.prompt import (
    Prompt,
    padding_side,
    refuse,
    with_lengths,
    with_mask,
)
from otprune.engines.transformers.versions import check_whole
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
    its frames, or what a rule makes of them (`Auto` for each, `Budget` for all of one prompt);
    anyres newline rows are tokens like any other. generate() returns the caller's prompt in front
    of the answer. A cache made inside knows its prompt; go on with it inside.

        with otprune.prune(model, otprune.TransportPrune(0.1)) as run:
            answer = model.generate(**inputs, max_new_tokens=64)
        for item in run.last:
            print(item.modality, item.before, "->", item.after)

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
        """generate() on the shortened prompt; what comes back stands behind the full one."""
        main = arguments.pop("inputs", None)
        if main is not None:
            arguments.setdefault(self._model.main_input_name, main)
        cache = arguments.get("past_key_values")
        memory = recall(cache)
        self.run.last = []
        if has_pictures(arguments):
            refuse(self._model, arguments)
            arguments = with_mask(self._model, arguments)
            shrunk = self._shrink(arguments, padding_side="left")
            outputs = shrunk.inputs["mm_encoder_outputs"]
            check_whole(self._model, arguments, outputs, shrunk.items)
            self.run.last = shrunk.items
            memory = shrunk.memory
            shortened = shrunk.inputs
        elif memory is not None:
            shortened = next_turn(self._model, arguments, memory)
        else:
            shortened = arguments
        if memory is None:  # nothing was dropped
            return self._generate_inside(shortened)

        remember(cache, memory)
        prompt = Prompt(arguments["input_ids"], shortened["input_ids"].shape[1])
        shortened = with_lengths(self._model, shortened, memory.layout.dropped)
        self._gaps = memory.positions.ndim == 2
        out = self._generate_inside(prompt.shown_to(shortened))
        if isinstance(out, Tensor):
            return prompt.restore(out)
        remember(getattr(out, "past_key_values", None), memory)
        out.sequences = prompt.restore(out.sequences)
        return out

    def _generate_inside(self, arguments: dict[str, Any]) -> Any:
        self._inside_generate = True
        try:
            return self._generate(**arguments)
        finally:
            self._inside_generate = self._gaps = False

    # -- forward -----------------------------------------------------------------------------

    def _before_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._inside_generate and not self._gaps:
            return None
        arguments = _by_name(model.forward, args, kwargs)
        if self._inside_generate:
            return _fill_gaps(arguments)
        self._pending = None
        cache = arguments.get("past_key_values")
        memory = recall(cache)
        if has_pictures(arguments):
            shrunk = self._shrink(arguments, padding_side=padding_side(arguments))
            self.run.last = shrunk.items
            self._pending = shrunk.memory
            return (), shrunk.inputs
        if memory is not None:
            return (), next_step(model, arguments, memory, length_of(cache))
        if length_of(cache) == 0:
            self.run.last = []
        return None

    def _after_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        memory, self._pending = self._pending, None
        if memory is None:
            return
        for value in out if isinstance(out, tuple) else (getattr(out, "past_key_values", None),):
            if hasattr(value, "get_seq_length"):
                remember(value, memory)


def _fill_gaps(arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Without mask and cache, transformers reads gaps in positions as packed sequences."""
    if any(arguments.get(name) is not None for name in ("past_key_values", "attention_mask")):
        return None
    return (), arguments | {"attention_mask": torch.ones_like(arguments["input_ids"])}


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name, positional ones named as the signature does."""
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
