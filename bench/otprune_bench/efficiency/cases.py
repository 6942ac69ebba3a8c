"""What pruning saves: operations, memory, time, at real model sizes with random weights."""

from __future__ import annotations

import functools
import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from otprune.flops import kv_cache_bytes, prefill_flops
from otprune.selectors import METHODS, OTPrune, Selector
from otprune_bench.runs.cases import Case, Results, run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.timing import measure
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.neighbours import neighbours
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY, Shape

KEEPS = (0.5, 0.25, 0.098)
UNPRUNED = "unpruned"
CHECKED: tuple[tuple[str, Selector | None], ...] = (
    (UNPRUNED, None),
    ("otprune@0.098", OTPrune(0.098)),
)
# Mean prompt lengths, without the image, of the eleven benchmarks in OTPrune's tables.
PUBLISHED_TEXT = (15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57)
PUBLISHED_TFLOP = {576: 3.228, 56: 0.512}


@dataclass(frozen=True)
class Plan:
    """What is run for one shape.

    Attributes:
        some: for methods other than the default, which keeps are run through the model.
        new: tokens generated in each call.
    """

    shape: Shape
    some: tuple[float, ...]
    new: int = 5


@dataclass(frozen=True)
class Scope:
    """A whole bench: the plans, the token shapes on which selectors are timed alone, repeats."""

    plans: tuple[Plan, ...]
    tokens: tuple[tuple[int, int], ...]
    repeats: int


FULL = Scope(
    plans=(Plan(LLAVA, some=KEEPS), Plan(ONEVISION, some=KEEPS)),
    tokens=((576, 4096), (1485, 896)),
    repeats=3,
)
QUICK = Scope(plans=(Plan(TINY, some=KEEPS, new=4),), tokens=((144, 128),), repeats=2)


def run(folder: Path, seed: int, quick: bool) -> None:
    """Run the bench and write its folder.

    Args:
        folder: where results, report and plots go; a run that was interrupted there goes on.
        seed: of the pixels, the tokens and the order of the cases.
        quick: a tiny model, to see that everything works.

    Raises:
        OTPruneError: the folder has cases of other settings, or matplotlib is missing.
    """
    from otprune_bench.efficiency import report as efficiency_report

    check_plots()
    scope = QUICK if quick else FULL
    settings = {"seed": seed, "quick": quick}
    found = run_cases(folder, cases(scope, seed), "efficiency", settings)
    figures = summarise(scope, found)
    efficiency_report.draw(folder, scope, figures)
    write_report(folder, figures, efficiency_report.write(scope, figures, found), settings)


def cases(scope: Scope, seed: int) -> Iterable[Case]:
    """All cases, in the order in which they are run."""
    bench = _Bench(seed)
    for plan in scope.plans:
        shape = plan.shape
        model = functools.partial(bench.model, shape)
        yield f"{shape.name}/operations", functools.partial(_operations, shape)
        for setting, selector in _settings(plan):
            if selector is None or isinstance(selector, OTPrune):
                yield (
                    f"{shape.name}/memory/{setting}",
                    functools.partial(_memory, model, selector),
                )
        yield f"{shape.name}/memory/encoder", functools.partial(_encoder_memory, model)
        for round_ in range(1, scope.repeats + 1):
            yield from _round(plan, model, round_, seed)
            for setting, selector in CHECKED:
                call = functools.partial(_beside, model, selector, plan.new)
                yield f"{shape.name}/busy/{setting}#{round_}", call
        yield f"{shape.name}/process", functools.partial(_process, model)
    for m, d in scope.tokens:
        for setting, selector in _grid(KEEPS):
            yield (
                f"tokens {m} x {d}/{setting}",
                functools.partial(_alone, selector, m, d, scope.repeats, seed),
            )


def _round(plan: Plan, model: Callable[[], _Model], round_: int, seed: int) -> list[Case]:
    """One run of every setting, in an order of its own, so that drift falls on all alike."""
    new, name = plan.new, plan.shape.name
    made: list[Case] = [(f"{name}/encoder#{round_}", lambda: model().encode())]
    for setting, selector in _settings(plan):
        made.append(
            (
                f"{name}/{setting}#{round_}",
                functools.partial(_generate, model, selector, new, pixels=False),
            )
        )
    if round_ == 1:  # a check of the sum, once
        for setting, selector in CHECKED:
            call = functools.partial(_generate, model, selector, 1, pixels=True)
            made.append((f"{name}/from pixels/{setting}", call))
    random.Random(f"{seed} {round_}").shuffle(made)
    return made


def _settings(plan: Plan) -> list[tuple[str, Selector | None]]:
    """Unpruned, the default method at every keep, the others at some."""
    pruned = [
        (setting, selector)
        for setting, selector in _grid(KEEPS)
        if isinstance(selector, OTPrune) or selector.keep in plan.some
    ]
    return [(UNPRUNED, None), *pruned]


def _grid(keeps: Iterable[float]) -> list[tuple[str, Selector]]:
    return [(f"{name}@{keep}", cls(keep)) for keep in keeps for name, cls in METHODS.items()]


class _Model:
    """A shape's model, built and warm, with one call's inputs."""

    def __init__(self, shape: Shape, seed: int) -> None:
        start = time.perf_counter()
        self.model = shape.build()
        self.inputs = shape.inputs(seed)
        self.encoded = measure.encode(self.model, self.inputs)
        measure.generate(self.model, self.encoded, OTPrune(0.25), 2)
        self.seconds = time.perf_counter() - start

    def encode(self) -> dict[str, Any]:
        start = time.perf_counter()
        measure.encode(self.model, self.inputs)
        return {"seconds": time.perf_counter() - start}


class _Bench:
    """Room for one model: it is built when its first case comes, and leaves for the next."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._name = ""
        self._model: _Model | None = None

    def model(self, shape: Shape) -> _Model:
        if self._model is None or self._name != shape.name:
            self._model = None
            self._name, self._model = shape.name, _Model(shape, self._seed)
        return self._model


def _generate(
    model: Callable[[], _Model], selector: Selector | None, new: int, pixels: bool
) -> dict[str, Any]:
    ready = model()
    inputs = ready.inputs if pixels else ready.encoded
    timed = measure.generate(ready.model, inputs, selector, new)
    return {
        "first_token_seconds": timed.tokens[0],
        "decoding_seconds": [b - a for a, b in zip(timed.tokens, timed.tokens[1:], strict=False)],
        "selector_seconds": timed.selector,
        "cache_bytes": timed.cache_bytes,
        "prompt_tokens": timed.prompt,
        "process": os.getpid(),
    }


def _beside(model: Callable[[], _Model], selector: Selector | None, new: int) -> dict[str, Any]:
    """A call beside two processes that spin."""
    model()
    with neighbours():
        return _generate(model, selector, new, pixels=False)


def _memory(model: Callable[[], _Model], selector: Selector | None) -> dict[str, Any]:
    ready = model()
    peak = peak_bytes(lambda: measure.generate(ready.model, ready.encoded, selector, 1))
    return {"peak_bytes": peak}


def _encoder_memory(model: Callable[[], _Model]) -> dict[str, Any]:
    ready = model()
    return {"peak_bytes": peak_bytes(lambda: measure.encode(ready.model, ready.inputs))}


def _process(model: Callable[[], _Model]) -> dict[str, Any]:
    parameters = sum(x.numel() for x in model().model.parameters())
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"parameters": parameters, "largest_resident_bytes": kilobytes * 1024}


def _operations(shape: Shape) -> dict[str, Any]:
    """Counted and by formula, of the whole model, at every keep."""
    hollow = measure.Hollow(shape)
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
            "counted": hollow.prefill(n),
            "formula": prefill_flops(*sizes, n),
            "selector": measure.flops(functools.partial(selector.reduce, tokens)),
            "cache_bytes": kv_cache_bytes(text.num_hidden_layers, *heads, n, 2),
        }
    return {"encoder": hollow.encoder(), "prompts": prompts}


def _alone(selector: Selector, m: int, d: int, repeats: int, seed: int) -> dict[str, Any]:
    """The selection as the engine asks for it, on bfloat16 tokens with something in common."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(m, d, generator=generator) + torch.randn(d, generator=generator)
    tokens = tokens.bfloat16()
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        selector.reduce(tokens)
        times.append(time.perf_counter() - start)
    return {"seconds": times[1:]}


# -- from runs to figures --------------------------------------------------------------------------


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and most of some runs, and the runs."""
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "runs": values,
    }


def published() -> dict[str, Any]:
    """The paper's TFLOP of LLaVA-1.5-7B, beside the formula: mean over its eleven prompts."""
    return {
        str(visual): {
            "published": tera,
            "formula": statistics.mean(
                prefill_flops(32, 4096, 11008, visual + text) for text in PUBLISHED_TEXT
            )
            / 1e12,
        }
        for visual, tera in PUBLISHED_TFLOP.items()
    }


def summarise(scope: Scope, found: Results) -> dict[str, Any]:
    """Figures of every setting from the runs; a setting with a failed run says so."""
    figures: dict[str, Any] = {"published TFLOP": published()}
    for plan in scope.plans:
        name = plan.shape.name
        figures[f"{name}/operations"] = found[f"{name}/operations"]
        figures[f"{name}/process"] = found[f"{name}/process"]
        figures[f"{name}/memory/encoder"] = found[f"{name}/memory/encoder"]
        rounds = range(1, scope.repeats + 1)
        encoder = [found[f"{name}/encoder#{r}"] for r in rounds]
        whole = [found[f"{name}/{UNPRUNED}#{r}"] for r in rounds]
        figures[f"{name}/encoder"] = _times(encoder)
        for setting, _ in _settings(plan):
            runs = [found[f"{name}/{setting}#{r}"] for r in rounds]
            figures[f"{name}/{setting}"] = _setting(runs, encoder, whole)
            peak = found.get(f"{name}/memory/{setting}")
            if peak is not None:
                figures[f"{name}/memory/{setting}"] = peak
        for setting, _ in CHECKED:
            figures[f"{name}/busy/{setting}"] = {
                state: _calls([found[f"{name}/{prefix}{setting}#{r}"] for r in rounds])
                for state, prefix in (("quiet", ""), ("busy", "busy/"))
            }
            key = f"{name}/from pixels/{setting}"
            figures[key] = found[key]
    for key, result in found.items():
        if key.startswith("tokens "):
            figures[key] = _times([result])
    return figures


def _setting(runs: list[Any], encoder: list[Any], whole: list[Any]) -> dict[str, Any]:
    failed = _failed([*runs, *encoder, *whole])
    if failed:
        return failed
    first = [run["first_token_seconds"] for run in runs]
    selector = [run["selector_seconds"] for run in runs]
    encoding = [run["seconds"] for run in encoder]
    total = [e + f for e, f in zip(encoding, first, strict=True)]
    before = [e + run["first_token_seconds"] for e, run in zip(encoding, whole, strict=True)]
    step = [statistics.median(run["decoding_seconds"]) for run in runs]
    answer = [
        (1 + len(run["decoding_seconds"])) / (t + sum(run["decoding_seconds"]))
        for t, run in zip(total, runs, strict=True)
    ]
    return {
        "prompt_tokens": runs[0]["prompt_tokens"],
        "first_token_seconds": spread(total),
        "selector_seconds": spread(selector),
        "prefill_seconds": spread([f - s for f, s in zip(first, selector, strict=True)]),
        # Of the same round each: what the machine did meanwhile falls on both.
        "speed_up": spread([b / t for b, t in zip(before, total, strict=True)]),
        "decoding_tokens_per_second": spread([1 / s for s in step]),
        "answer_tokens_per_second": spread(answer),
        "cache_bytes": runs[0]["cache_bytes"],
        "processes": len({run["process"] for run in runs}),
    }


def _calls(runs: list[Any]) -> dict[str, Any]:
    """What calls took on what the encoder gave."""
    failed = _failed(runs)
    if failed:
        return failed
    return {
        name: spread([run[name] for run in runs])
        for name in ("first_token_seconds", "selector_seconds")
    }


def _times(runs: list[Any]) -> dict[str, Any]:
    failed = _failed(runs)
    if failed:
        return failed
    seconds = [run["seconds"] for run in runs]
    return {"seconds": spread(seconds[0] if isinstance(seconds[0], list) else seconds)}


def _failed(runs: list[Any]) -> dict[str, Any] | None:
    reasons = sorted({run["failed"] for run in runs if "failed" in run})
    return {"failed": "; ".join(reasons)} if reasons else None
