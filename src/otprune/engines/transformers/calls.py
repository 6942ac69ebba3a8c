"""One call of a model, generate() or forward(), with visual tokens pruned.

The state of a call is kept in context variables, so every thread has its own. A nested call, as
made by a draft model or a stopping criterion, sets its own state and restores the outer one.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.attention import KeyBias, apply_key_bias, key_bias_of
from otprune.engines.transformers.continuing import next_step, next_turn
from otprune.engines.transformers.deep import check_generation, check_layers, in_layers
from otprune.engines.transformers.encoded import PrunedOutputs, has_images
from otprune.engines.transformers.heads import base_of, check_rows
from otprune.engines.transformers.inputs import Shrunk, handed_over, shrink
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.memory import (
    Memory,
    cache_of,
    capacity_of,
    length_of,
    recall,
    remember,
)
from otprune.engines.transformers.parameters import parameters_of
from otprune.engines.transformers.prompt import (
    Prompt,
    check_lengths,
    new_tokens,
    refuse,
    setting,
    with_lengths,
    with_mask,
)
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings
from otprune.engines.transformers.versions import check_several_images, check_tested
from otprune.errors import OTPruneError, UnsupportedError

_NUMBERS = itertools.count(1)
_INNERMOST: ContextVar[Generating | None] = ContextVar("otprune_generating", default=None)

Function = Callable[..., Any]


class Generating:
    """One running generate(), which owns the forward calls that process its prompt and answer.

    Other forward calls can happen during it, such as those of a negative prompt.

    model: the model that generates.
    memory: how its prompt was pruned; None if it was not.
    number: the `PrunedOutputs.number` of its images, by which their forward calls are recognised.
    past: number of tokens in the cache that generate() was given.
    """

    def __init__(self, model: Any, memory: Memory | None, number: int = 0, past: int = 0) -> None:
        self.model = model
        self.memory = memory
        self.number = number
        self.past = past
        # Only for new images: `next_turn` passes explicit positions for the whole conversation.
        self.gap = memory.gap if memory is not None and number else None
        self.key_bias = key_bias_of(model, memory)
        self.outer = _INNERMOST.get()
        self._cache: Any = None
        self._begun = False

    def run(self, function: Function, arguments: dict[str, Any]) -> Any:
        """Run the model's own generate()."""
        token = _INNERMOST.set(self)
        try:
            # generate() creates the masks of a static cache before the forward pass.
            with apply_key_bias(self.key_bias, layers=False):
                return function(**arguments)
        finally:
            _INNERMOST.reset(token)

    def owns(self, arguments: Mapping[str, Any]) -> bool:
        """Whether a forward call belongs here: it is the first, or has the same cache or images."""
        cache = cache_of(arguments)
        if not self._begun:
            self._begun, self._cache = True, cache
            if self.memory is not None:
                _check_first_call(self, self.memory, arguments)
            return True
        if cache is not None:
            return cache is self._cache
        return bool(self.number) and _number(arguments) == self.number

    def call(self, function: Function, arguments: dict[str, Any]) -> Any:
        """Run forward() for a call that `owns` accepts."""
        if self.memory is None:
            return plain_forward(self.model, function, arguments)
        if self.memory.positions.ndim == 2:
            arguments = _with_mask_of_ones(arguments)
        if self.gap is not None:
            arguments = self._shift_answer(arguments, self.gap, self.memory)
        return _call_pruned(self.model, function, arguments, self.memory, self.key_bias)

    def _shift_answer(
        self, arguments: dict[str, Any], gap: Tensor, memory: Memory
    ) -> dict[str, Any]:
        """Shift the positions of the answer if the prompt's last tokens were dropped.

        generate() counts from the last kept token, but the answer follows the full prompt.
        """
        positions = arguments.get("position_ids")
        if positions is None:
            return arguments
        past = length_of(cache_of(arguments))
        columns = torch.arange(past, past + positions.shape[-1], device=positions.device)
        gap = gap.repeat_interleave(positions.shape[-2] // gap.shape[-2], dim=-2)
        shift = gap.to(positions.device) * (columns >= memory.layout.columns.shape[1])
        return arguments | {"position_ids": positions + shift}


def _number(arguments: Mapping[str, Any]) -> int:
    outputs = arguments.get("mm_encoder_outputs")
    return outputs.number if isinstance(outputs, PrunedOutputs) else 0


def _generating_with(number: int) -> Generating | None:
    """The enclosing generate() that pruned the images with this number; None if there is none."""
    call = _INNERMOST.get()
    while call is not None and not (number and call.number == number):
        call = call.outer
    return call


def _check_first_call(call: Generating, memory: Memory, arguments: Mapping[str, Any]) -> None:
    """Check that the first forward call of a generate() gets the pruned prompt unchanged.

    PEFT's prompt and prefix tuning prepend virtual tokens and remove the positions. Masses and
    positions would then apply to the wrong tokens.
    """
    name = type(call.model).__name__
    if not memory.has_default_positions and arguments.get("position_ids") is None:
        raise UnsupportedError(
            f"generate() did not hand the positions of the pruned prompt on to {name} (PEFT's "
            "prompt and prefix tuning leave them out): use positions='compact', or prune without "
            "virtual tokens"
        )
    if arguments.get("input_ids") is None or length_of(cache_of(arguments)) != call.past:
        raise UnsupportedError(
            f"{name} was not called with the pruned prompt alone: something puts tokens in front "
            "of it (PEFT's prompt and prefix tuning do), and what was pruned would be misplaced; "
            "prune without virtual tokens"
        )


def check_unpruned_cache(arguments: Mapping[str, Any]) -> None:
    """Refuse a cache that holds a pruned prompt, for a call that is not pruned."""
    if recall(cache_of(arguments)) is not None:
        raise UnsupportedError(
            "the cache holds a pruned prompt, and this call is not pruned, so what follows would "
            "be misplaced: go on with it in a with block, or with the otprune= of its prompt"
        )


# -- generate ------------------------------------------------------------------------------------


def plain_generate(model: Any, function: Function, arguments: dict[str, Any]) -> Any:
    """generate() without pruning, possibly nested in a pruned one."""
    if _INNERMOST.get() is None:
        return function(**arguments)
    return Generating(model, None).run(function, arguments)


@torch.no_grad()
def generate(
    model: Any, function: Function, arguments: dict[str, Any], settings: Settings, run: Run
) -> Any:
    """generate() on the shortened prompt; the returned ids start with the caller's full prompt."""
    main = arguments.pop("inputs", None)
    if main is not None:
        arguments.setdefault(model.main_input_name, main)
    drafted = _generating_with(_number(arguments))
    if drafted is not None:  # a draft model of assisted generation: the prompt is already pruned
        past = length_of(cache_of(arguments))
        draft = Generating(model, drafted.memory, drafted.number, past)
        return draft.run(function, arguments)
    cache = cache_of(arguments)
    memory = recall(cache)
    nested = _INNERMOST.get() is not None
    report = Run() if nested else run
    report.start()
    if has_images(arguments):
        refuse(model, arguments)
        arguments = with_mask(model, arguments)
        shrunk = _shrink(model, settings, arguments, "left")
        outputs = shrunk.inputs["mm_encoder_outputs"]
        outputs.number = next(_NUMBERS)
        check_several_images(model, arguments, outputs, shrunk.items)
        report.record(shrunk)
        memory, shortened, number = shrunk.memory, shrunk.inputs, outputs.number
        _warn_of_chunks(model, arguments)
    elif memory is not None:
        arguments = with_mask(model, arguments)
        shortened, number = next_turn(model, arguments, memory), 0
    else:
        return Generating(model, None).run(function, arguments)
    if memory is None:  # nothing was dropped
        return Generating(model, None, number).run(function, shortened)

    if memory.deep is not None:
        check_generation(model, arguments)
    remember(cache, memory)
    ids = shortened["input_ids"]
    prompt = Prompt(arguments["input_ids"], ids.shape[1])
    check_lengths(model, arguments)
    _check_capacity(model, arguments, cache, ids.shape[1])
    shortened = with_lengths(model, shortened, memory.layout.dropped)
    if memory.key_bias is not None or memory.deep is not None:
        # A compiled graph of the layers would skip the bias, or the stage.
        shortened["disable_compile"] = True
    call = Generating(model, memory, number, length_of(cache))
    out = call.run(function, prompt.showing_full_ids(shortened))
    if isinstance(out, Tensor):
        return prompt.restore(out)
    if not isinstance(getattr(out, "sequences", None), Tensor):
        raise UnsupportedError(
            f"generate() returned {type(out).__name__}, which has no sequences to put the caller's "
            "prompt in front of: have custom_generate return ids, or an output with sequences"
        )
    remember(cache_of(out), memory)
    out.sequences = prompt.restore(out.sequences)
    return out


def _check_capacity(model: Any, arguments: dict[str, Any], cache: Any, prompt: int) -> None:
    """Refuse a static cache that is too small: transformers would overwrite its last tokens."""
    room = capacity_of(cache)
    if room is None:
        return
    wanted = prompt + new_tokens(model, arguments) - 1
    if wanted > room:
        raise OTPruneError(
            f"the static cache holds {room} tokens, and the pruned prompt of {prompt} with its "
            f"answer may take {wanted}: make it larger, use a DynamicCache, or ask for fewer "
            "tokens"
        )


def _warn_of_chunks(model: Any, arguments: dict[str, Any]) -> None:
    if not setting(model, arguments, "prefill_chunk_size"):
        return
    if "token_type_ids" in parameters_of(model.forward):
        warnings.warn(
            f"prefill_chunk_size with {type(model).__name__}: its image tokens see each other in "
            "both directions, and a chunk does not see the next; answers differ from those "
            "without chunks, pruned or not",
            stacklevel=2,
        )


# -- forward -------------------------------------------------------------------------------------


def owner_of(model: Any, arguments: Mapping[str, Any]) -> Generating | None:
    """The innermost generate() if this forward call of the model belongs to it, else None."""
    call = _INNERMOST.get()
    return call if call is not None and call.model is model and call.owns(arguments) else None


def plain_forward(model: Any, function: Function, arguments: dict[str, Any]) -> Any:
    """forward() without pruning, possibly nested in a pruned call."""
    with apply_key_bias(None), in_layers(base_of(model), None, arguments):
        return function(**arguments)


def forward(
    model: Any, function: Function, arguments: dict[str, Any], settings: Settings, run: Run
) -> Any:
    """forward() on the shortened prompt, or on new tokens after a pruned prompt."""
    cache = cache_of(arguments)
    memory = recall(cache)
    report = Run() if _INNERMOST.get() is not None else run
    if has_images(arguments):
        asked = arguments.get("logits_to_keep")
        if settings.logits == "full":
            check_rows(model)
        full = settings.logits == "full" and asked is not None
        kept = arguments | {"logits_to_keep": None} if full else arguments
        shrunk = _shrink(model, settings, kept, "aligned")
        report.record(shrunk)
        if shrunk.memory is None:
            more = {"logits_to_keep": asked} if full else {}
            whole = handed_over(model, arguments, shrunk)
            return plain_forward(model, function, whole | more)
        return _forward_shrunk(model, function, arguments, settings, shrunk, shrunk.memory)
    if memory is not None:
        base = base_of(model)
        shortened = next_step(base, arguments, memory, length_of(cache))
        return _call_pruned(base, function, shortened, memory, key_bias_of(base, memory))
    if length_of(cache) == 0:
        report.start()
    return plain_forward(model, function, arguments)


def _forward_shrunk(
    model: Any,
    function: Function,
    given: dict[str, Any],
    settings: Settings,
    shrunk: Shrunk,
    memory: Memory,
) -> Any:
    arguments, layout = handed_over(model, given, shrunk), memory.layout
    nearest = None
    if settings.logits == "full":
        asked = given.get("logits_to_keep")
        arguments, nearest = _logits_request(arguments, layout, asked)
    as_tuple = nearest is not None and not _returns_dict(model, given)
    if as_tuple:
        arguments = arguments | {"return_dict": True}
    base = base_of(model)
    out = _call_pruned(base, function, arguments, memory, key_bias_of(base, memory))
    for value in out if isinstance(out, tuple) else (cache_of(out),):
        if hasattr(value, "get_seq_length"):
            remember(value, memory)
    if nearest is not None:
        name = "logits" if "logits" in out else "last_hidden_state"
        out[name] = _expand_logits(out[name], nearest)
    return out.to_tuple() if as_tuple else out


def _logits_request(
    arguments: dict[str, Any], layout: Layout, asked: Any
) -> tuple[dict[str, Any], Tensor]:
    """The call that returns all logits needed for the columns `asked`, and where each column's are.

    The second result has one entry for each asked column: the index among the returned logits, -1
    where there is none.
    """
    nearest = layout.nearest()
    if asked is None or (not isinstance(asked, Tensor) and int(asked) == 0):
        return arguments, nearest
    columns = asked if isinstance(asked, Tensor) and asked.ndim else slice(-int(asked), None)
    nearest = nearest[:, columns]
    first = int(nearest.clamp(min=0).min())
    number = layout.columns.shape[1] - first
    nearest = torch.where(nearest < 0, nearest, nearest - first)
    return arguments | {"logits_to_keep": number}, nearest


def _expand_logits(logits: Tensor, nearest: Tensor) -> Tensor:
    """Logits of the shortened prompt, `(B, n, V)`, for the caller's columns, `(B, S, V)`.

    Each column gets the logits at `nearest`, `(B, S)`, or 0 where that is -1.
    """
    nearest = nearest.to(logits.device)
    place = nearest.clamp(min=0).unsqueeze(-1).expand(-1, -1, logits.shape[-1])
    return logits.gather(1, place).masked_fill((nearest < 0).unsqueeze(-1), 0)


def _returns_dict(model: Any, arguments: Mapping[str, Any]) -> bool:
    given = arguments.get("return_dict")
    return bool(model.config.return_dict if given is None else given)


def _call_pruned(
    model: Any,
    function: Function,
    arguments: dict[str, Any],
    memory: Memory,
    key_bias: KeyBias | None,
) -> Any:
    """Run forward() on a pruned prompt, or behind one, with what applies inside the model."""
    if key_bias is not None:
        key_bias = key_bias.for_call(_sliding_total(arguments), arguments.get("position_ids"))
    with apply_key_bias(key_bias), in_layers(model, memory, arguments):
        out = function(**arguments)
    if key_bias is not None:
        key_bias.check_used()
    return out


def _shrink(
    model: Any, settings: Settings, arguments: Mapping[str, Any], padding_side: str
) -> Shrunk:
    """`shrink`, after a check of the transformers version."""
    check_tested(settings.untested_transformers)  # settings may have been unpickled
    if settings.layers is not None:
        check_layers(base_of(model), settings.layers)
    return shrink(model, arguments, padding_side, settings)


def _sliding_total(arguments: Mapping[str, Any]) -> int:
    """Tokens so far, including those of this call; 0 if no cache layer has a sliding window.

    The length is read only where it is needed: for a static cache this synchronises the device.
    """
    cache = cache_of(arguments)
    if cache is None or not any(cache.is_sliding):
        return 0
    new = arguments.get("input_ids")
    if new is None:
        new = arguments["inputs_embeds"]
    return length_of(cache) + int(new.shape[1])


def _with_mask_of_ones(arguments: dict[str, Any]) -> dict[str, Any]:
    """Add a mask of ones if a call has neither mask nor cache.

    transformers would read gaps in its positions as borders between packed sequences.
    """
    if cache_of(arguments) is not None or arguments.get("attention_mask") is not None:
        return arguments
    return arguments | {"attention_mask": torch.ones_like(arguments["input_ids"])}
