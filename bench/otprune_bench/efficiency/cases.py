"""What pruning saves: operations, memory, time, at real model sizes with random weights."""

from __future__ import annotations

import os
import random
import resource
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch

from otprune.engines.common.stage import EncoderStage
from otprune.flops import kv_cache_bytes, prefill_flops
from otprune.selectors import OTPrune, Selector
from otprune_bench.efficiency.plan import CHECKED, KEEPS, PRUNED, SETTINGS, STAGED, Plan
from otprune_bench.runs.cases import Case
from otprune_bench.timing import measure
from otprune_bench.timing.busy import busy_processes
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.shapes import Shape


def cases(plan: Plan) -> Iterable[Case]:
    """All cases, in the order in which they are run."""
    models = _OneModel(plan)
    for shape in plan.shapes:
        name, model = shape.name, partial(models, shape)
        if plan.encoder_only:
            yield from _encoder_only(plan, name, model)
            continue
        yield f"{name}/operations", partial(_operations, shape, plan.torch_dtype)
        for setting, selector in SETTINGS.items():
            if selector is None or isinstance(selector, OTPrune):
                yield f"{name}/memory/{setting}", partial(_memory, model, selector)
        for label, stage in plan.encoders.items():
            yield f"{name}/memory/encoder {label}", partial(_encoder_memory, model, stage)
        for number in range(1, plan.repeats + 1):
            yield from _round(plan, name, model, number)
            for setting in CHECKED:
                call = partial(_busy, model, SETTINGS[setting], plan.new)
                yield f"{name}/busy/{setting}#{number}", call
        yield f"{name}/process", partial(_process, model)
    for m, d in () if plan.encoder_only else plan.tokens:
        for setting, alone in PRUNED.items():
            yield f"tokens {m} x {d}/{setting}", partial(_alone, alone, m, d, plan)


def _round(plan: Plan, name: str, model: Callable[[], _Model], number: int) -> list[Case]:
    """One run of every setting, in a random order, so that drift affects all alike."""
    made = _stages(plan, name, model, number)
    for setting, selector in SETTINGS.items():
        call = partial(_generate, model, selector, plan.new, pixels=False)
        made.append((f"{name}/{setting}#{number}", call))
    if number == 1:  # a check of the sum, once
        for setting in CHECKED:
            call = partial(_generate, model, SETTINGS[setting], 1, pixels=True)
            made.append((f"{name}/from pixels/{setting}", call))
    random.Random(f"{plan.seed} {number}").shuffle(made)
    return made


def _encoder_only(plan: Plan, name: str, model: Callable[[], _Model]) -> Iterable[Case]:
    for number in range(1, plan.repeats + 1):
        made = _stages(plan, name, model, number)
        random.Random(f"{plan.seed} {number}").shuffle(made)
        yield from made
    for label, stage in plan.encoders.items():
        yield f"{name}/memory/encoder {label}", partial(_encoder_memory, model, stage)


def _stages(plan: Plan, name: str, model: Callable[[], _Model], number: int) -> list[Case]:
    """The encoder by itself and calls from pixels, without a selection inside and with each."""
    made: list[Case] = []
    for label, stage in plan.encoders.items():
        made.append((f"{name}/encoder {label}#{number}", partial(_encode, model, stage)))
        call = partial(_generate, model, SETTINGS[STAGED], 1, pixels=True, stage=stage)
        made.append((f"{name}/staged {label}#{number}", call))
    return made


class _Model:
    """A shape's model after a warm-up call, with the inputs of one call."""

    def __init__(self, shape: Shape, plan: Plan) -> None:
        start = time.perf_counter()
        self.model = shape.build(plan.torch_dtype)
        self.inputs = shape.inputs(plan.seed, plan.torch_dtype)
        self.encoded = measure.encode(self.model, self.inputs)
        measure.generate(self.model, self.encoded, OTPrune(0.25), 2)
        self.seconds = time.perf_counter() - start


class _OneModel:
    """Holds one model at a time: built for its first case, freed before the next is built."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._name = ""
        self._model: _Model | None = None

    def __call__(self, shape: Shape) -> _Model:
        if self._model is None or self._name != shape.name:
            self._model = None
            self._name, self._model = shape.name, _Model(shape, self._plan)
        return self._model


def _encode(model: Callable[[], _Model], stage: EncoderStage | None) -> dict[str, Any]:
    ready = model()
    start = time.process_time()
    seconds, inside = measure.encode_staged(ready.model, ready.inputs, stage)
    return {
        "seconds": seconds,
        "cpu_seconds": time.process_time() - start,
        "inside_seconds": inside,
        "load": os.getloadavg()[0],
    }


def _generate(
    model: Callable[[], _Model],
    selector: Selector | None,
    new: int,
    pixels: bool,
    stage: EncoderStage | None = None,
) -> dict[str, Any]:
    ready = model()
    inputs = ready.inputs if pixels else ready.encoded
    start = time.process_time()
    timed = measure.generate(ready.model, inputs, selector, new, stage=stage)
    return {
        "cpu_seconds": time.process_time() - start,
        "first_token_seconds": timed.tokens[0],
        "decoding_seconds": [b - a for a, b in zip(timed.tokens, timed.tokens[1:], strict=False)],
        "selector_seconds": timed.selector,
        "inside_seconds": timed.inside,
        "cache_bytes": timed.cache_bytes,
        "prompt_tokens": timed.prompt,
        "process": os.getpid(),
    }


def _busy(model: Callable[[], _Model], selector: Selector | None, new: int) -> dict[str, Any]:
    """A call beside two processes that spin; the model is built before they start."""
    model()
    with busy_processes():
        return _generate(model, selector, new, pixels=False)


def _memory(model: Callable[[], _Model], selector: Selector | None) -> dict[str, Any]:
    ready = model()
    peak = peak_bytes(lambda: measure.generate(ready.model, ready.encoded, selector, 1))
    return {"peak_bytes": peak}


def _encoder_memory(model: Callable[[], _Model], stage: EncoderStage | None) -> dict[str, Any]:
    ready = model()
    peak = peak_bytes(lambda: measure.encode_staged(ready.model, ready.inputs, stage))
    return {"peak_bytes": peak}


def _process(model: Callable[[], _Model]) -> dict[str, Any]:
    parameters = sum(x.numel() for x in model().model.parameters())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"parameters": parameters, "largest_resident_bytes": kilobytes * 1024}


def _operations(shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """Operations of the whole model at every keep ratio, counted and by formula."""
    model = measure.MetaModel(shape)
    text = shape.full().get_text_config()
    sizes = (text.num_hidden_layers, text.hidden_size, text.intermediate_size)
    heads = (text.num_key_value_heads, text.hidden_size // text.num_attention_heads)
    tokens = torch.randn(shape.visual, shape.width, generator=torch.Generator().manual_seed(0))
    prompts = {}
    for keep in (1.0, *KEEPS):
        selector = OTPrune(keep)
        visual = selector.count(shape.visual)
        n = visual + shape.text
        prompts[str(keep)] = {
            "visual_tokens": visual,
            "prompt_tokens": n,
            "counted": model.prefill(n),
            "formula": prefill_flops(*sizes, n),
            "selector": measure.flops(partial(selector.reduce, tokens)),
            "cache_bytes": kv_cache_bytes(text.num_hidden_layers, *heads, n, dtype.itemsize),
        }
    return {"encoder": model.encoder(), "prompts": prompts}


def _alone(selector: Selector, m: int, d: int, plan: Plan) -> dict[str, Any]:
    """The selection as the engine asks for it, on bfloat16 tokens with something in common."""
    generator = torch.Generator().manual_seed(plan.seed)
    tokens = torch.randn(m, d, generator=generator) + torch.randn(d, generator=generator)
    tokens = tokens.bfloat16()
    times = []
    for _ in range(plan.repeats + 1):
        start = time.perf_counter()
        selector.reduce(tokens)
        times.append(time.perf_counter() - start)
    return {"seconds": times[1:]}
