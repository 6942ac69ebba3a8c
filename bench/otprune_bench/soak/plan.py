"""What `otprune bench soak` sends: to which models, how much, what kinds of requests, how often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

QWEN, EMBEDDED = "random Qwen2.5-VL", "embedded LLaVA"
# Of the servers; most requests ask for something else.
ENGINE: dict[str, Any] = {"keep": 0.5, "allow_mass": True}
MOST = 256  # visual tokens of the largest image of the random model

# Kinds of requests with the weights that they are drawn by. Those of the first group bring images
# that no cache has seen; those of the second repeat an earlier request in part or whole.
FRESH = {"image": 26, "several images": 6, "video": 8}
REPEATED = {
    "the same again": 8,
    "the same, other settings": 8,
    "the same, other question": 7,
    "second turn": 6,
}
REFUSED = {
    "broken image": 4,
    "wrong settings": 7,
    "too much": 2,
}
ABORTED = {"left before a token": 6, "left after a token": 6}
KINDS = {"text": 6, **FRESH, **REPEATED, **REFUSED, **ABORTED}
NUMBERS = ("sent", "answered", "refused", "left", "again")  # what is counted of each kind
ONLY_QWEN = ("several images", "video")

# What a request may ask of pruning. None is nothing, so that the engine's settings hold.
KEEPS: tuple[dict[str, Any], ...] = (
    *({"keep": keep} for keep in (1.0, 0.5, 0.25, 0.1, 0.05, 1, 7, 64, 5000)),
    {"image_pruning_rate": 0.9},
    {"video_pruning_rate": 0.7},
    {"image_pruning_rate": 0.35, "video_retention_ratio": 0.2},
    {"keep": 0.25, "video_retention_ratio": 0.1},
)
METHODS: tuple[dict[str, Any], ...] = (
    {},
    {"merge": True},
    {"gamma": 0.01},
    {"rank": 32},
    {"method": "transport"},
    {"method": "transport", "metric": "euclidean", "merge": True},
    {"method": "herding"},
    {"method": "divprune"},
    {"method": "dpp"},
    {"method": "simplex"},
    {"method": "norm"},
    {"method": "grid", "merge": True},
    {"method": "random", "seed": 3},
    {"method": "recommended"},
    {"method": "recommended", "mass": "none"},
    {"mass": "token", "alpha": 0.5},
    {"method": "transport", "merge": True, "mass": "total"},
    {"method": "transport", "question": 0.9},
    {"method": "cdpruner", "merge": True},
    {"method": "recommended", "question": 0.9},
    {"encoder_keep": 0.5},
    {"method": "transport", "encoder_keep": 0.35, "encoder_after": 1},
)

# What is refused, and a part of the message.
WRONG: tuple[tuple[object, str], ...] = (
    ({"keep": 7.5}, "keep=7.5 is more than everything"),
    ({"keep": -0.5}, "keep=-0.5 would leave no token"),
    ({"keep": 0}, "keep=0 would leave no token"),
    ({"keep": "auto"}, "before any feature exists"),
    ({"keep": None}, "keep"),
    ({"kep": 0.5}, "expected only keep, "),
    ({"gamma": "big"}, "gamma is 'big'"),
    ({"gamma": -1.0}, "gamma=-1.0 is outside"),
    ({"rank": 0}, "rank is 0"),
    ({"seed": 3}, "it belongs to random"),
    ({"method": "otprun"}, "did you mean otprune?"),
    ({"method": "os:path"}, "names a class in a module"),
    ({"method": "random", "seed": -1}, "seed=-1"),
    ({"method": "transport", "metric": "manhattan"}, "metric='manhattan'"),
    ({"merge": "yes"}, "merge='yes'"),
    ({"backend": "triton"}, "triton"),
    ({"positions": "compact"}, "expected only keep, "),
    ({"allow_mass": True}, "expected only keep, "),
    ({"distance": True}, "differs between queries"),
    ({"image_pruning_rate": 1.5}, "image_pruning_rate=1.5: expected a share"),
    (
        {"keep": 0.5, "image_pruning_rate": 0.5, "video_pruning_rate": 0.5},
        "contradicts",
    ),
    ("half", "expected a dictionary"),
)


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        requests: how many each model gets.
        block: how many are one case; after each block the server is at rest for a moment.
        concurrent: requests under way at once.
        sampled: share of the answers that are compared with the reference.
        killed: processes of the last model's server that are killed behind its first block, one
            after another; each time the server is started again.
    """

    requests: dict[str, int]
    block: int
    concurrent: int = 16
    sampled: float = 0.06
    killed: tuple[str, ...] = ("Worker",)
    quick: bool = False
    seed: int = 0

    def settings(self) -> dict[str, Any]:
        """As a report shows them."""
        return {
            "seed": self.seed,
            "quick": self.quick,
            "requests": self.requests,
            "at once": self.concurrent,
            "block": self.block,
            "sampled": self.sampled,
        }

    def blocks(self, model: str) -> list[range]:
        """Numbers of the requests of each block."""
        number = self.requests[model]
        return [range(i, min(i + self.block, number)) for i in range(0, number, self.block)]


FULL = Plan(requests={QWEN: 8000, EMBEDDED: 2000}, block=250, killed=("Worker", "EngineCore"))
QUICK = Plan(requests={QWEN: 150}, block=50, sampled=0.2, quick=True)


def key(model: str, block: range) -> str:
    """A block's case."""
    return f"{model}/requests {block.start} to {block.stop - 1}"


def killed_key(model: str, role: str) -> str:
    """The case of a process of a model's server being killed."""
    return f"{model}/{role} killed"


def stop_key(model: str) -> str:
    """The case of a model's server being stopped."""
    return f"{model}/stop"
