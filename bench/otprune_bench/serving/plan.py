"""What `otprune bench serving` measures: a model's size, workloads, loads, keep ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from otprune_bench.served.model import Size

# A server of vLLM as it is, and one with otprune that is asked for these ratios.
STOCK = "stock"
KEEPS = (1.0, 0.5, 0.25, 0.1)
ARMS: dict[str, float | None] = {STOCK: None, **{f"keep {keep}": keep for keep in KEEPS}}


@dataclass(frozen=True)
class Workload:
    """Images of `side` x `side` tokens, answers of `new` tokens."""

    name: str
    side: int
    new: int


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        size: of the language model.
        loads: requests under way at once, and requests in all.
        rounds: how often every load is run.
    """

    size: Size
    workloads: tuple[Workload, ...]
    loads: tuple[tuple[int, int], ...]
    rounds: int
    quick: bool = False
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {"seed": self.seed, "quick": self.quick}


FULL = Plan(
    size=Size(layers=8, width=896, heads=14, mlp=4864),  # a third of Qwen2.5-0.5B's layers
    workloads=(
        Workload("large image, short answer", side=24, new=16),
        Workload("small image, long answer", side=8, new=64),
    ),
    loads=((1, 2), (4, 8), (16, 16)),
    rounds=3,
)
QUICK = Plan(
    size=Size(layers=2, width=128, heads=4, mlp=256),
    workloads=(Workload("small image, short answer", side=8, new=4),),
    loads=((1, 2), (4, 4)),
    rounds=1,
    quick=True,
)


def key(workload: Workload, concurrent: int, arm: str, number: int) -> str:
    """A case's name; `number` of its round, from 1."""
    return f"{workload.name}/{concurrent} at once/{arm}#{number}"
