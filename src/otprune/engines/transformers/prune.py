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

from otprune.engines.transformers.attention import Attention
from otprune.engines.transformers.continuing import next_step, next_turn
from otprune.engines.transformers.families import check
from otprune.engines.transformers.inputs import Pruned, Shrunk, has_pictures, shrink
from otprune.engines.transformers.memory import Memory, cache_of, length_of, recall, remember
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
from otprune.objectives.mass import Mass, check_alpha, check_mass

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
    mass: Mass = "none",
    alpha: float = 1.0,
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
        mass: what a kept token weighs in the language model's attention, in every layer, for the
            prompt and for each step after it: "none" (as one token), "total" (as m / k, so that
            the picture as a whole keeps its share) or "token" (as the tokens that it stands for).
            A token of weight n counts exactly as n copies of itself at its position would that see
            each other. Needs sdpa, eager, flex or flash attention, and no other layers.
        alpha: strength of the mass; the logarithm of the weight is multiplied by it.

    Raises:
        UnsupportedError: the model cannot be pruned, is being pruned already, or a call asks for
            what would go wrong; says which and why.
        OTPruneError: an argument is wrong, or placeholders and features differ in number.
    """
    check(model)
    check_positions(positions)
    if check_alpha(alpha) == 0 or check_mass(mass) == "none":
        mass = "none"
    attention = Attention(model)
    if mass != "none":
        attention.check()
    shorten = functools.partial(
        shrink, model, selector=selector, positions=positions, merge=merge, mass=mass, alpha=alpha
    )
    engine = _Engine(model, shorten, attention)
    engine.install()
    try:
        yield engine.run
    finally:
        engine.remove()


class _Engine:
    """The two ways into a model, generate() and forward(), and what lies between them."""

    def __init__(self, model: Any, shrink: Callable[..., Shrunk], attention: Attention) -> None:
        self.run = Run()
        self._model = model
        self._shrink = shrink
        self._attention = attention
        self._generating: _Generating | None = None
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
            self._model.register_forward_hook(
                self._after_forward, with_kwargs=True, always_call=True
            ),
        ]

    def remove(self) -> None:
        self._attention.leave()
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
        cache = cache_of(arguments)
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
            return self._generate_inside(shortened, None)

        remember(cache, memory)
        prompt = Prompt(arguments["input_ids"], shortened["input_ids"].shape[1])
        shortened = with_lengths(self._model, shortened, memory.layout.dropped)
        out = self._generate_inside(prompt.shown_to(shortened), memory)
        if isinstance(out, Tensor):
            return prompt.restore(out)
        remember(cache_of(out), memory)
        out.sequences = prompt.restore(out.sequences)
        return out

    def _generate_inside(self, arguments: dict[str, Any], memory: Memory | None) -> Any:
        self._generating = _Generating(memory)
        self._weigh(memory)  # masks of a static cache are made before the forward pass
        try:
            return self._generate(**arguments)
        finally:
            self._generating = None
            self._attention.leave()

    # -- forward -----------------------------------------------------------------------------

    def _before_forward(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        inside = self._generating
        if inside is not None and inside.memory is None:
            return None
        arguments = _by_name(model.forward, args, kwargs)
        cache = cache_of(arguments)
        if inside is not None and inside.memory is not None:
            self._weigh(inside.memory if inside.is_about(arguments) else None, arguments)
            return _fill_gaps(arguments) if inside.memory.positions.ndim == 2 else None
        self._pending = None
        memory = recall(cache)
        self._weigh(memory, arguments)
        if has_pictures(arguments):
            shrunk = self._shrink(arguments, padding_side=padding_side(arguments))
            self.run.last = shrunk.items
            self._pending = shrunk.memory
            self._weigh(shrunk.memory, shrunk.inputs)
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
        try:
            if out is not None:  # None: the call has failed
                self._attention.check_used()
        finally:
            self._weigh(self._generating.memory if self._generating is not None else None)
        if memory is None:
            return
        for value in out if isinstance(out, tuple) else (cache_of(out),):
            if hasattr(value, "get_seq_length"):
                remember(value, memory)

    def _weigh(self, memory: Memory | None, arguments: dict[str, Any] | None = None) -> None:
        """Let attention weigh a prompt's tokens from here on; for a call if there are arguments."""
        if memory is None or memory.weights is None:
            self._attention.leave()
        else:
            self._attention.enter(memory.weights, _sliding_total(arguments or {}))


class _Generating:
    """One generate(): its prompt, if that was pruned, and the calls of the model about it.

    Others come from inside as well, such as those of a negative prompt.
    """

    def __init__(self, memory: Memory | None) -> None:
        self.memory = memory
        self._cache: Any = None
        self._begun = False

    def is_about(self, arguments: dict[str, Any]) -> bool:
        """Whether a call is about the prompt: it is the first, has its cache, or its pictures."""
        cache = cache_of(arguments)
        if not self._begun:
            self._begun, self._cache = True, cache
            return True
        return has_pictures(arguments) or (cache is not None and cache is self._cache)


def _sliding_total(arguments: dict[str, Any]) -> int:
    """Tokens so far, those of a call included; 0 if its cache has no layer with a window.

    Asked only where it matters, since a static cache has to wait for the device to know.
    """
    cache = cache_of(arguments)
    if cache is None or not any(cache.is_sliding):
        return 0
    new = arguments.get("input_ids")
    if new is None:
        new = arguments["inputs_embeds"]
    return length_of(cache) + int(new.shape[1])


def _fill_gaps(arguments: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Without mask and cache, transformers reads gaps in positions as packed sequences."""
    if cache_of(arguments) is not None or arguments.get("attention_mask") is not None:
        return None
    return (), arguments | {"attention_mask": torch.ones_like(arguments["input_ids"])}


def _by_name(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by name, positional ones named as the signature does."""
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, args, strict=False)) | kwargs
