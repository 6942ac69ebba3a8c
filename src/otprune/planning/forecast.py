"""`otprune.plan`: a forecast of one request, with every visual token and with the kept ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import torch

from otprune.asking import models
from otprune.engines.common.stage import EncoderStage
from otprune.errors import OTPruneError
from otprune.keep import Keep, check_keep
from otprune.planning import report
from otprune.planning.budget import check_budgets, fitting
from otprune.planning.prompts import Size, check_sizes, prompt
from otprune.planning.request import AtAnyKeep, Costs, Method, Rates, Request
from otprune.planning.sizes import Sizes
from otprune.selectors import Selector

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Visual:
    """An image, a video, or a part of a video that has a budget of its own.

    Attributes:
        unit: "image", "video", "frame" or "chunk".
        before, after: its visual tokens, and how many of them stay.
    """

    unit: str
    before: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What pruning would cost and save for one request.

    Attributes:
        model: name of the model.
        family: its model_type.
        dtype: of weights and cache.
        images: width and height of each image, or of the video's frames.
        frames: frames of the video; None for images.
        visual: each image or video, in the order of the prompt.
        around: tokens that the processor writes for the images besides the visual ones; they stay.
        text: the other tokens of the prompt.
        answer_tokens: tokens of the answer.
        method: the selector; its keep is as asked, or the largest that a budget allows.
        before, after: costs of the two ways.
        least: costs if no visual token and no selection were left: what pruning cannot reach.
        counted: False if the cost of the selection is an estimate, of more tokens than are tried.
        requests: requests at once, which share the budget of the cache.
        rates: of the machine; None if not given.
        cache_budget: bytes for the caches of all requests; None if not given.
    """

    model: str
    family: str
    dtype: str
    images: tuple[Size, ...]
    frames: int | None
    visual: tuple[Visual, ...]
    around: int
    text: int
    answer_tokens: int
    method: Selector
    before: Costs
    after: Costs
    least: Costs
    counted: bool
    requests: int = 1
    rates: Rates | None = None
    cache_budget: int | None = None

    @property
    def keep(self) -> float | int:
        """Ratio or number of visual tokens that stay of each image."""
        return check_keep(self.method.keep)

    @property
    def speed_up(self) -> float:
        """How many times fewer operations up to the first token."""
        return self.before.first_token / self.after.first_token

    @property
    def speed_up_at_most(self) -> float:
        """The same if no visual token were left and selecting cost nothing (Amdahl's law)."""
        return self.before.first_token / self.least.first_token

    @property
    def saved(self) -> int:
        """Operations up to the first token that pruning saves, its own subtracted."""
        return self.before.first_token - self.after.first_token

    @property
    def pays(self) -> bool:
        """Whether pruning saves more operations up to the first token than it costs."""
        return self.saved > 0

    @property
    def shares(self) -> dict[str, float]:
        """Parts of the operations up to the first token, without pruning; they sum to 1."""
        whole = self.before.first_token
        return {
            "encoder": self.before.encoder / whole,
            "visual tokens in the prefill": (self.before.prefill - self.least.prefill) / whole,
            "other tokens in the prefill": self.least.prefill / whole,
        }

    @property
    def stops_at(self) -> str:
        """The part that most of what is left comes from, however few tokens stay."""
        parts = {"the encoder": self.least.encoder, "the text": self.least.prefill}
        return max(parts, key=parts.__getitem__)

    def __str__(self) -> str:
        return report.text(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, as `otprune plan --json` prints it."""
        return report.values(self)

    def requests_in(self, cache_bytes: int, side: Literal["before", "after"] = "after") -> int:
        """How many requests of this kind fit into a cache of so many bytes at once."""
        one = self.before if side == "before" else self.after
        return cache_bytes // one.cache_bytes


def plan(
    model: str | PathLike[str] | Any = None,
    image: Size | Sequence[Size] = (1920, 1080),
    *,
    frames: int | None = None,
    text: int = 100,
    answer: int = 100,
    keep: Keep | None = None,
    method: Method = "otprune",
    encoder: EncoderStage | None = None,
    dtype: Dtype = "auto",
    requests: int = 1,
    cache_budget: int | None = None,
    share: float | None = None,
    seconds: float | None = None,
    rates: Rates | None = None,
    trust_remote_code: bool = False,
    processor: Any = None,
) -> Plan:
    """What pruning would cost and save for a request of these sizes, from a model's config alone.

        print(otprune.plan("Qwen/Qwen2.5-VL-7B-Instruct", (1920, 1080), keep=0.1))
        otprune.plan("models/llava", [(1920, 1080)] * 3, text=200, cache_budget=2**30).keep

    Visual tokens are counted by the model's own processor, on blank images, and checked against
    the model's own code, which runs without weights. Operations are counted in that code too:
    matrix products, convolutions and attention; a multiplication and the addition after it are
    two. Attention counts whole rectangles of queries and keys: the half that a causal mask hides
    counts, what lies outside a window, or in another image or tile, does not. The literature's
    formula is another one (`otprune.prefill_flops`).

    Args:
        model: a folder or a name on the hub, of which config and processor are read; None for the
            embedded model; or a config, with `processor`.
        image: width and height in pixels, of one image or of each.
        frames: plan for one video of so many frames of that size. All of them are taken: processors
            that draw fewer from a file draw them before.
        text: tokens of the prompt besides images and what the processor writes around them.
        answer: tokens of the answer, 1 or more.
        keep: ratio or number of tokens that stay of each image; the method's own, or 0.1, if
            neither it nor a budget is given. It must be known before there are tokens: no rule.
        method: a name, as for `otprune.by_name`, a selector or its class, or the arguments of
            `otprune.prune` that `by_name` and `recommended` return.
        encoder: a selection inside the encoder besides.
        dtype: of weights and cache; "auto": the config's, or bfloat16.
        requests: requests at once, for `cache_budget`.
        cache_budget: find the largest keep at which the caches of all requests, prompts and
            answers, take at most so many bytes.
        share: find the largest keep at which the operations up to the first token are at most this
            share of the unpruned ones.
        seconds: the same for the time to the first token, which needs `rates`.
        rates: what the machine achieves.
        trust_remote_code: whether code of the model's repository may be run.
        processor: of the model, if that is a config.

    Raises:
        OTPruneError: there is no such model, the processor refuses the sizes, a number is wrong, or
            no keep fits the budget; says what takes it.
        KeepError: keep is no ratio or number.
        UnsupportedError: the model cannot be pruned, knows no video, or is not forecast.
        MissingDependencyError: the processor needs a package that is not installed.
    """
    sizes = _sizes(image)
    check_sizes(sizes, frames)
    _check_number("text", text, 0)
    _check_number("answer", answer, 1)
    _check_number("requests", requests, 1)
    budgets = {"cache_budget": cache_budget, "share": share, "seconds": seconds}
    check_budgets(keep, budgets, rates)
    if requests > 1 and cache_budget is None:
        raise OTPruneError(f"requests={requests} belongs to a cache_budget: give both of them")
    of = AtAnyKeep.of(method)
    selector = of.at(check_keep(of.selector.keep if keep is None else keep))

    name, config, processor = _described(model, processor, trust_remote_code)
    # The embedded model is stored in float16 and runs in float32.
    size = Sizes(config, _dtype("float32" if model is None and dtype == "auto" else dtype, config))
    asked = prompt(name, config, processor, sizes, frames)
    encoding = size.encode(asked.inputs, encoder)
    made = Request(size.language(), encoding, encoder, of, text + asked.around, answer)
    before, least = made.before(), made.least()
    if keep is None and any(x is not None for x in budgets.values()):
        selector = of.at(fitting(made, before, least, requests, budgets, rates))
    visual = tuple(
        Visual(one.unit, m, selector.count(m))
        for one, m in zip(encoding.tokens, made.tokens, strict=True)
    )
    return Plan(
        model=name,
        family=str(config.model_type),
        dtype=str(size.dtype).removeprefix("torch."),
        images=tuple(sizes),
        frames=frames,
        visual=visual,
        around=asked.around,
        text=text,
        answer_tokens=answer,
        method=selector,
        before=before,
        after=made.after(selector),
        least=least,
        counted=made.selection(selector)[1],
        requests=requests,
        rates=rates,
        cache_budget=cache_budget,
    )


def _described(model: Any, processor: Any, trust_remote_code: bool) -> tuple[str, Any, Any]:
    """Name, config and processor of what `plan` was given."""
    if model is None or isinstance(model, (str, PathLike)):
        place = None if model is None else str(model)
        return place or models.EMBEDDED, *models.described(place, trust_remote_code)
    if processor is None:
        raise OTPruneError(
            f"model is a {type(model).__name__}: pass its processor too (processor=), or a name"
        )
    return str(getattr(model, "model_type", type(model).__name__)), model, processor


def _sizes(image: Any) -> list[Size]:
    if isinstance(image, (tuple, list)) and image and isinstance(image[0], int):
        return [(image[0], image[1])] if len(image) == 2 else [tuple(image)]
    return list(image)


def _dtype(name: str, config: Any) -> torch.dtype:
    if name == "auto":
        found = getattr(config, "dtype", None)
        return found if isinstance(found, torch.dtype) else torch.bfloat16
    if name not in ("float32", "bfloat16", "float16"):
        raise OTPruneError(f"dtype={name!r}: expected auto, float32, bfloat16 or float16")
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _check_number(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise OTPruneError(f"{name}={value!r}: expected a whole number, {least} or more")
