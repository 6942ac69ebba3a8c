"""Part `model`: time to first token, decoding and memory at 7B, on a device, random weights."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from otprune.errors import UnsupportedError
from otprune.selectors import OTPrune
from otprune_bench.gpu import families
from otprune_bench.gpu.plan import ENCODER, FLASH, KEEPS, LEAST, STAGED, Model, Plan
from otprune_bench.runs.cases import Case
from otprune_bench.runs.deadline import SkipError
from otprune_bench.timing.device import Stopwatch

checks = families.cases
INSIDE = (0.35, 0.6)  # keep and place of the stage inside the encoder: its defaults


def cases(plan: Plan) -> Iterator[Case]:
    """Model by model, so that each is built once for an attention function."""
    ready = _OneModel(plan)
    for model in plan.models:
        for batch in model.batches:
            for attention in plan.attentions:
                for what in (ENCODER, *KEEPS, STAGED):
                    call = partial(_measured, ready, model, attention, batch, what)
                    yield model.key(attention, batch, what), call


class _Ready:
    """A model on its device; the inputs of a batch, and the same with the encoder's output."""

    def __init__(self, plan: Plan, model: Any, inputs: dict[str, Any]) -> None:
        self.plan, self.model, self.inputs = plan, model, inputs
        self.watch = Stopwatch(plan.device or "cpu")
        self._encoded: dict[str, Any] | None = None

    @property
    def encoded(self) -> dict[str, Any]:
        """The inputs with the encoder's output instead of the pixels."""
        if self._encoded is None:
            rest = {name: x for name, x in self.inputs.items() if name != "pixel_values"}
            self._encoded = rest | {"mm_encoder_outputs": self.encode()}
        return self._encoded

    @torch.no_grad()
    def encode(self, stage: Any = None) -> Any:
        """The encoder's output."""
        from otprune.engines.transformers.encoded import encode_call

        return encode_call(self.model, self.inputs, stage).outputs

    def generate(
        self, inputs: dict[str, Any], keep: float, new: int, stage: Any = None
    ) -> list[Any]:
        """Greedy decoding of `new` tokens; what was pruned, none at keep 1."""
        block = (
            nullcontext()
            if keep == 1.0
            else families.library().prune(self.model, OTPrune(keep), encoder=stage)
        )
        with block as run:
            self.model.generate(**inputs, max_new_tokens=new, do_sample=False)
        return [] if run is None else list(run.last)


class _OneModel:
    """The model of the last call is kept, since cases come in the order of their models."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._built: tuple[str, Any] = ("", None)
        self._ready: tuple[tuple[Any, ...], _Ready | None] = ((), None)

    def __call__(self, model: Model, attention: str, batch: int) -> _Ready:
        from otprune_bench.timing import shapes

        name = (model, attention, batch)
        if self._ready[1] is not None and self._ready[0] == name:
            return self._ready[1]
        self._ready = ((), None)
        shape, device = getattr(shapes, model.shape), self.plan.device or "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        if self._built[0] != model.name:
            self.forget()
            whole = replace(shape, layers=shape.all_layers)
            self._built = model.name, whole.build(dtype, device)
        built = self._built[1]
        built.set_attn_implementation(attention)
        inputs = shape.inputs(self.plan.seed, dtype, batch)
        made = _Ready(self.plan, built, {name: x.to(device) for name, x in inputs.items()})
        self._ready = name, made
        return made

    def forget(self) -> None:
        """Give the memory back."""
        self._built, self._ready = ("", None), ((), None)
        gc.collect()
        if self.plan.device == "cuda":
            torch.cuda.empty_cache()


def _measured(
    ready: _OneModel, model: Model, attention: str, batch: int, what: Any
) -> dict[str, Any]:
    plan = ready.plan
    families.library()
    if attention == FLASH:
        families.flash_attention(plan)
    _check_memory(plan, model)
    try:
        there = ready(model, attention, batch)
        if what == ENCODER:
            return _encoder(there)
        if what == STAGED:
            return _staged(there)
        return _kept(there, what, batch == 1)
    except UnsupportedError as cause:
        raise SkipError(f"refused: {' '.join(str(cause).split())[:200]}") from cause
    except torch.cuda.OutOfMemoryError as cause:
        ready.forget()
        raise SkipError(f"out of memory: {' '.join(str(cause).split())[:160]}") from cause


def _check_memory(plan: Plan, model: Model) -> None:
    """Raise SkipError where the weights alone do not fit on the card."""
    if plan.device == "cuda" and not plan.quick:
        whole = torch.cuda.get_device_properties(0).total_memory
        if whole < 20 * 2**30:
            raise SkipError(f"{model.name} needs 20 GiB, this card has {whole / 2**30:.0f}")


def _encoder(there: _Ready) -> dict[str, Any]:
    there.encode()
    seconds = [there.watch(there.encode) for _ in range(there.plan.repeats_of_models)]
    parameters = sum(x.numel() for x in there.model.parameters())
    return {"seconds": seconds, "parameters": parameters}


def _staged(there: _Ready) -> dict[str, Any]:
    """From pixels to the first token with a selection inside the encoder, and one behind it."""
    from otprune.engines.common.stage import EncoderStage

    keep, after = INSIDE
    stage = EncoderStage(keep, after)
    run = partial(there.generate, there.inputs, LEAST, 1, stage)
    run()
    return {"first": [there.watch(run) for _ in range(there.plan.repeats_of_models)]}


def _kept(there: _Ready, keep: float, whole: bool) -> dict[str, Any]:
    """Behind the encoder, from pixels (`whole`), decoding and memory.

    `behind`: seconds of selection and prefill to the first token; `selection`: of the first alone,
    for which the engine waits for the device before and after; `first`: from pixels.
    """
    plan, watch = there.plan, there.watch
    repeats = plan.repeats_of_models
    there.generate(there.encoded, keep, 1)
    behind, selection, items = [], [], []
    for _ in range(repeats):
        behind.append(watch(lambda: items.append(there.generate(there.encoded, keep, 1))))
        selection.append(sum(item.seconds for item in items[-1]))
    found: dict[str, Any] = {"behind": behind, "selection": selection}
    if whole:
        run = partial(there.generate, there.inputs, keep, 1)
        found["first"] = [watch(run) for _ in range(repeats)]
    peak, longer = _peak(there, keep, 1 + plan.new)
    middle = sorted(behind)[len(behind) // 2]
    kept = sum(item.after for item in items[-1]) if items[-1] else None
    return {
        **found,
        "decode": max(0.0, longer - middle) / plan.new,
        "peak bytes": peak,
        "visual tokens": kept,
    }


def _peak(there: _Ready, keep: float, new: int) -> tuple[int | None, float]:
    """Most bytes that torch held on the device in a call, weights too, and the call's seconds."""
    if there.plan.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = there.watch(lambda: there.generate(there.encoded, keep, new))
    peak = torch.cuda.max_memory_allocated() if there.plan.device == "cuda" else None
    return peak, seconds
