"""What `otprune bench gpu` measures: parts, sizes, targets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from otprune.errors import OTPruneError

PARTS = ("check", "select", "model", "kernel")
DTYPES = ("float32", "float16", "bfloat16")

# Contenders of the races.
PUBLISHED, GRAM = "published, as written", "Gram product alone"
EXACT, SKETCHED, TRITON = "exact", "sketched", "exact, Triton"
EXACT_GRAPH, SKETCHED_GRAPH = "exact, CUDA graph", "sketched, CUDA graph"
OURS = (EXACT, EXACT_GRAPH, TRITON)  # the published objective in full: what targets are about
OTHERS = ("transport", "dpp", "simplex", "divprune")

KEEPS = (1.0, 0.5, 0.25, 0.098)
LEAST = min(KEEPS)
SDPA, FLASH = "sdpa", "flash_attention_2"
ENCODER, STAGED = "encoder", "staged"

# Targets: of selection at (m, d, k), and of the 7B shapes at `LEAST`, batch 1.
RATIO_TARGET = ((2340, 4096, 229), 0.1)  # of the published algorithm's time
TIME_TARGET = ((576, 4096, 56), 1e-3)  # seconds
SHARE_TARGET = 0.02  # of the prefill that pruning saves
FASTER_TARGET, STAGED_TARGET = 2.5, 3.5  # time to first token, unpruned over pruned
FASTER_MODEL = ("Qwen2.5-VL-7B", 4000)

# Relative differences of objectives below which two choices count as a near tie.
NEAR = 1e-5


class Point(NamedTuple):
    """B sets of m tokens of d features, of which k are kept."""

    B: int
    m: int
    d: int
    k: int

    @property
    def name(self) -> str:
        """As keys of cases have it."""
        return f"{self.B} x ({self.m}, {self.d}, {self.k})"


class Model(NamedTuple):
    """A model's shape (a name in `timing.shapes`) and what is run of it.

    Attributes:
        shape: the name of a `Shape`.
        name: of the model.
        visual: tokens of an image.
        patches: of an image in the encoder.
        batches: numbers of prompts at once.
    """

    shape: str
    name: str
    visual: int
    patches: int
    batches: tuple[int, ...] = (1, 8)

    def key(self, attention: str, batch: int, what: object) -> str:
        """The name of a case."""
        return f"model/{self.name}, {self.visual} tokens/{attention}/batch {batch}/{what}"


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        checked: shape of the tokens of which CPU and device must choose the same.
        points: sizes that are raced.
        frames: T frames of m tokens of d features.
        models: whose time to first token is measured.
        attentions: of these models.
        profiled: sizes whose search is looked at launch by launch.
        new: tokens decoded.
        repeats: rounds of a race, runs of a model.
        patience: seconds for the repeats of one contender; one that is expected to take as long for
            a single run is left out.
        parts: which of `PARTS` are run.
        minutes: no case is started that is not expected to end by then; 0 for no limit.
        device: "cuda", "cpu", or None for CUDA where there is it, and the CPU for a quick run.
    """

    checked: Point
    points: tuple[Point, ...]
    frames: tuple[int, int, int]
    models: tuple[Model, ...]
    attentions: tuple[str, ...]
    profiled: tuple[Point, ...]
    new: int = 16
    repeats: int = 9
    patience: float = 1.0
    parts: tuple[str, ...] = PARTS
    minutes: float = 12.0
    device: str | None = None
    quick: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.parts) - set(PARTS))
        if unknown or not self.parts:
            raise OTPruneError(f"part {', '.join(unknown)!r}: expected one of {', '.join(PARTS)}")
        if self.device not in (None, "cuda", "cpu"):
            raise OTPruneError(f"device {self.device!r}: expected cuda or cpu")
        if not self.minutes >= 0:
            raise OTPruneError(f"minutes {self.minutes}: expected 0 (no limit) or more")

    @property
    def repeats_of_models(self) -> int:
        """Runs of a model, whose time varies less."""
        return max(2, self.repeats // 3)

    def settings(self) -> dict[str, Any]:
        """As a report shows them; what cases do not depend on is left out."""
        return {"seed": self.seed, "quick": self.quick, "device": self.device}

    def placed(self) -> Plan:
        """The same with its device decided.

        Raises:
            OTPruneError: torch sees no such device, or it is the CPU and the run not quick.
        """
        if self.device == "cpu" and not self.quick:
            raise OTPruneError(
                "a run on the CPU says nothing about a GPU: --device cpu needs --quick"
            )
        if self.device == "cpu":
            return self
        if torch.cuda.is_available():
            return replace(self, device="cuda")
        if self.quick and self.device is None:
            return replace(self, device="cpu")
        raise OTPruneError(
            f"torch {torch.__version__} sees no CUDA device: run this on a machine that has one, "
            "with a torch built for CUDA; --device cpu --quick shows on a CPU that it works"
        )


_LLAVA = Model("LLAVA", "LLaVA-1.5-7B", 576, 577)
_QWEN = (
    Model("QWEN_1296", "Qwen2.5-VL-7B", 1296, 5184),
    Model("QWEN_4000", "Qwen2.5-VL-7B", 4000, 16000),
)
_SIZES = ((576, 1024, 56), (576, 4096, 56), (2340, 4096, 229), (6272, 3584, 627))

FULL = Plan(
    checked=Point(3, 576, 1024, 56),
    points=tuple(Point(b, *size) for b in (1, 16, 64) for size in _SIZES),
    frames=(32, 196, 1024),
    models=(_LLAVA, _QWEN[1], _QWEN[0]),
    attentions=(SDPA, FLASH),
    profiled=(Point(1, 576, 4096, 56), Point(1, 2340, 4096, 229)),
)
QUICK = Plan(
    checked=Point(2, 40, 24, 6),
    points=(Point(1, 48, 32, 5), Point(2, 48, 32, 5)),
    frames=(3, 12, 16),
    models=(
        Model("TINY", "tiny LLaVA", 64, 65, (1, 2)),
        Model("TINY_QWEN", "tiny Qwen2.5-VL", 96, 384, (1,)),
    ),
    attentions=(SDPA, FLASH),
    profiled=(Point(1, 48, 32, 5),),
    new=2,
    repeats=2,
    quick=True,
)
