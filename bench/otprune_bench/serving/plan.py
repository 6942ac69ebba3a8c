"""What `otprune bench serving` measures: a model's size, workloads, loads, keep ratios."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprune_bench.served.model import TOWER, Size

STOCK = "stock"
BEFORE = "before: "  # in front of the name of an arm of an earlier build
KEEPS = (1.0, 0.5, 0.25, 0.1)
# Selections inside the encoder, in front of the least of `KEEPS`.
STAGES = {
    f"encoder {keep} after {after}": {"encoder_keep": keep, "encoder_after": after}
    for keep, after in ((0.35, 0.6), (0.35, 0.4), (0.5, 0.2))
}
COMPARED = (0.5, 0.1)  # ratios that an earlier build is asked for, too


@dataclass(frozen=True)
class Arm:
    """What a load asks of pruning, and of which server.

    asked: by every request; None for vLLM without otprune.
    before: of a server of the earlier build.
    """

    asked: dict[str, float] | None
    before: bool = False


@dataclass(frozen=True)
class Workload:
    """Images of `side` x `side` tokens, answers of `new` tokens.

    encoder: whether selections inside the encoder, and an earlier build, are compared, too.
    """

    name: str
    side: int
    new: int
    encoder: bool = True


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        size, tower: of the language model and the vision encoder.
        loads: requests under way at once, and requests in all.
        rounds: how often every load is run.
        against: folder of the sources of an earlier build, which takes turns with this one.
    """

    size: Size
    tower: dict[str, int]
    workloads: tuple[Workload, ...]
    loads: tuple[tuple[int, int], ...]
    rounds: int
    quick: bool = False
    seed: int = 0
    against: Path | None = None

    def arms(self, workload: Workload) -> dict[str, Arm]:
        """What is compared, by name."""
        made = {STOCK: Arm(None), **{f"keep {keep}": Arm({"keep": keep}) for keep in KEEPS}}
        if not workload.encoder:
            return made
        least = min(KEEPS)
        made |= {
            f"keep {least}, {name}": Arm({"keep": least, **stage}) for name, stage in STAGES.items()
        }
        if self.against is not None:
            made |= {f"{BEFORE}keep {keep}": Arm({"keep": keep}, True) for keep in COMPARED}
        return made

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        made = {"seed": self.seed, "quick": self.quick}
        return made if self.against is None else {**made, "against": _commit(self.against)}


FULL = Plan(
    # Layers of the size of Qwen2.5-0.5B's. The encoder's work for a visual token is 0.88 of the
    # language model's, as in Qwen2.5-VL-3B (0.91).
    size=Size(layers=4, width=896, heads=14, mlp=4864),
    tower={"depth": 4, "hidden_size": 512, "intermediate_size": 1536, "num_heads": 8},
    workloads=(
        Workload("large image, short answer", side=24, new=16),
        Workload("small image, long answer", side=8, new=64, encoder=False),
    ),
    loads=((1, 2), (4, 4), (16, 16)),
    rounds=3,
)
QUICK = Plan(
    size=Size(layers=2, width=128, heads=4, mlp=256),
    tower=TOWER,
    workloads=(Workload("small image, short answer", side=8, new=4),),
    loads=((1, 2), (4, 4)),
    rounds=1,
    quick=True,
)


def _commit(folder: Path) -> str:
    """The commit of a folder of sources; its name, if it is in no repository."""
    git = ["git", "-C", str(folder), "rev-parse", "--short=12", "HEAD"]
    said = subprocess.run(git, capture_output=True, text=True)
    return said.stdout.strip() or folder.name


def key(workload: Workload, concurrent: int, arm: str, number: int) -> str:
    """A case's name; `number` of its round, from 1."""
    return f"{workload.name}/{concurrent} at once/{arm}#{number}"
