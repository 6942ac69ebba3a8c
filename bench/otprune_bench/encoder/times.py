"""What a call takes: encoder, the selection inside it, and the whole, in processor seconds too."""

from __future__ import annotations

import copy
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.initialization import no_init_weights

from otprune.demo import load
from otprune.encoders import vit_s
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers import prune
from otprune.engines.transformers.tower import staged
from otprune.engines.transformers.towers import tower_of
from otprune.measures.cells import Cells
from otprune_bench.embedded.tasks import noise_images
from otprune_bench.encoder.plan import EMBEDDED, ONE, Plan, Stage, Timed, behind, call_key, chooser
from otprune_bench.methods import UNPRUNED
from otprune_bench.timing.shapes import Shape, fill

Seconds = list[float]  # of a clock and of the process's processors


def now() -> Seconds:
    """The time on both clocks."""
    return [time.perf_counter(), time.process_time()]


def _since(start: Seconds) -> Seconds:
    return [b - a for a, b in zip(start, now(), strict=True)]


def _sum(each: list[Seconds]) -> Seconds:
    return [sum(x) for x in zip(*each, strict=True)] or [0.0, 0.0]


@dataclass(frozen=True)
class TimedStage(EncoderStage):
    """An encoder stage that records how long its selections take."""

    taken: list[Seconds] = field(default_factory=list, compare=False)

    def cells(self, sets: Any) -> tuple[list[Cells], float]:
        start = now()
        made = super().cells(sets)
        self.taken.append(_since(start))
        return made


@contextmanager
def timed_tower(tower: Any) -> Iterator[list[Seconds]]:
    """A list of the times of all calls of an encoder."""
    taken: list[Seconds] = []
    started: list[Seconds] = []
    handles = [
        tower.register_forward_pre_hook(lambda *_: started.append(now())),
        tower.register_forward_hook(lambda *_: taken.append(_since(started.pop()))),
    ]
    try:
        yield taken
    finally:
        for handle in handles:
            handle.remove()


class Rounds:
    """A model and one call of it; built when it is first timed."""

    def __init__(self, plan: Plan, timed: Timed) -> None:
        self.plan, self.timed = plan, timed

    def settings(self) -> dict[str, tuple[TimedStage | None, float | None]]:
        """Name of every setting to its encoder stage and the language model's ratio."""
        found: dict[str, tuple[TimedStage | None, float | None]] = {UNPRUNED: (None, None)}
        finals: tuple[float | None, ...] = self.timed.finals or (None,)
        for final in finals:
            if final is not None:
                found[call_key(ONE, final)] = (None, final)
            for stage in self.timed.stages:
                found[call_key(stage, final)] = (self._stage(stage), final)
        return found

    def _stage(self, stage: Stage) -> TimedStage:
        selector = chooser(stage.method, self.plan.seed)(stage.keep, 0)
        return TimedStage(selector=selector, after=stage.after, mass=stage.mass)

    def round(self, call: Callable[[], Call], number: int) -> dict[str, Any]:
        """One call of every setting, in a random order, so that drift affects all alike."""
        ready = call()
        settings = list(self.settings().items())
        random.Random(f"{self.plan.seed} {number}").shuffle(settings)
        found: dict[str, Any] = {}
        for name, (stage, final) in settings:
            found[name] = ready.timed(stage, final)
        return {"load": os.getloadavg()[0], "threads": torch.get_num_threads(), "calls": found}


def _encoder(shape: Shape) -> Any:
    """A model's encoder with random weights, in float32."""
    with no_init_weights():
        config = AutoConfig.for_model(**copy.deepcopy(shape.config["vision_config"]))
        model = AutoModel.from_config(config)
    fill(model)
    return model.eval()


class Call:
    """A model with the inputs of one call, after a warm-up call."""

    def __init__(self, timed: Timed, seed: int) -> None:
        self.alone = not timed.finals
        self.model: Any
        if timed.name == EMBEDDED:
            self.model, processor = load()
            self.inputs = processor(
                images=noise_images(1, seed),
                text=["<image> is there a red star ?"],
                return_tensors="pt",
            )
        elif timed.size:
            self.model = vit_s.load().model
            self.inputs = {"pixel_values": vit_s.pixels(noise_images(1, seed)[0], timed.size)}
        elif timed.shape is not None:
            # float32: processors without bfloat16 of their own take many times longer with it.
            self.model = _encoder(timed.shape) if self.alone else timed.shape.build().float()
            inputs = timed.shape.inputs(seed)
            inputs["pixel_values"] = inputs["pixel_values"].float()
            self.inputs = {"pixel_values": inputs["pixel_values"]} if self.alone else inputs
        self.tower = tower_of(self.model)[0]
        self.timed(None, None)

    @torch.no_grad()
    def timed(self, stage: TimedStage | None, final: float | None) -> dict[str, Seconds]:
        """Seconds of one call, of the encoder in it, and of the selection in that."""
        if stage is not None:
            stage.taken.clear()
        with timed_tower(self.tower) as tower:
            start = now()
            self._call(stage, final)
            total = _since(start)
        selection = _sum(stage.taken) if stage is not None else [0.0, 0.0]
        return {"total": total, "encoder": _sum(tower), "selection": selection}

    def _call(self, stage: TimedStage | None, final: float | None) -> None:
        if self.alone:
            with nullcontext() if stage is None else staged(self.model, stage):
                self.model(**self.inputs)
            return
        context: Any = nullcontext()
        if final is not None:
            context = prune(self.model, **behind(final), encoder=stage)
        with context:
            self.model.generate(**self.inputs, max_new_tokens=1, do_sample=False)
