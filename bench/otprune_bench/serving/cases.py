"""What pruning does to a vLLM server under load: time to first token, and throughput."""

from __future__ import annotations

import functools
import importlib.util
import os
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otprune.errors import MissingDependencyError
from otprune_bench.runs.cases import Case, run_cases
from otprune_bench.runs.report import check_plots, write_report
from otprune_bench.serving.model import PIXELS, Size, save
from otprune_bench.serving.server import Reply, Request, Server, data_url, load, serve

# A server of vLLM as it is, and one with otprune that is asked for these.
STOCK = "stock"
KEEPS = (1.0, 0.5, 0.25, 0.1)


@dataclass(frozen=True)
class Workload:
    """Images of `side` x `side` tokens, answers of `new` tokens."""

    name: str
    side: int
    new: int


@dataclass(frozen=True)
class Scope:
    """A whole bench.

    size: of the language model.
    loads: requests under way at once, and requests in all.
    """

    size: Size
    workloads: tuple[Workload, ...]
    loads: tuple[tuple[int, int], ...]
    rounds: int


FULL = Scope(
    size=Size(layers=8, width=896, heads=14, mlp=4864),  # a third of Qwen2.5-0.5B's layers
    workloads=(
        Workload("large image, short answer", side=24, new=16),
        Workload("small image, long answer", side=8, new=64),
    ),
    loads=((1, 2), (4, 8), (16, 16)),
    rounds=3,
)
QUICK = Scope(
    size=Size(layers=2, width=128, heads=4, mlp=256),
    workloads=(Workload("small image, short answer", side=8, new=4),),
    loads=((1, 2), (4, 4)),
    rounds=1,
)
OPTIONS = (
    *("--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager", "--block-size", "32"),
    *("--max-model-len", "2048", "--max-num-seqs", "16", "--max-num-batched-tokens", "2048"),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


def run(folder: Path, seed: int, quick: bool) -> None:
    """Run the bench and write its folder.

    Args:
        folder: where results and report go; a run that was interrupted there goes on.
        seed: of the images and the order of the cases.
        quick: a tiny model, to see that everything works.

    Raises:
        OTPruneError: the folder has cases of other settings, or a server did not come up.
        MissingDependencyError: vLLM or matplotlib is not installed.
    """
    from otprune_bench.serving import report as serving_report

    check_plots()
    if importlib.util.find_spec("vllm") is None:
        raise MissingDependencyError(
            "vLLM is not installed here, and without it there is no server to measure: "
            "`make test-vllm` makes .venv-vllm, which has it (docs/vllm.md)"
        )
    scope = QUICK if quick else FULL
    settings = {"seed": seed, "quick": quick}
    with _Bench(scope, seed) as bench:
        found = run_cases(folder, bench.cases(), "serving", settings)
    serving_report.draw(folder, scope, found)
    write_report(folder, found, serving_report.write(scope, found), settings)


def arms() -> Iterator[tuple[str, float | None]]:
    """Name and keep of everything that is compared."""
    yield STOCK, None
    for keep in KEEPS:
        yield f"keep {keep}", keep


def key(workload: Workload, concurrent: int, arm: str, round_: int) -> str:
    """Of a case."""
    return f"{workload.name}/{concurrent} at once/{arm}#{round_}"


def figures(replies: list[Reply], seconds: float) -> dict[str, Any]:
    """What one load came to; times in seconds."""
    return {
        "prompt": statistics.mean(reply.prompt for reply in replies),
        "first": statistics.median(reply.first for reply in replies),
        "whole": statistics.median(reply.whole for reply in replies),
        "seconds": seconds,
        "answered": len(replies) / seconds,
        "tokens": sum(reply.answer for reply in replies) / seconds,
    }


class _Bench(ExitStack):
    """Two servers, started when they are first asked; only one is asked at a time."""

    def __init__(self, scope: Scope, seed: int) -> None:
        super().__init__()
        self._scope, self._seed, self._asked = scope, seed, 0
        self.server = functools.cache(self._server)

    def _server(self, stock: bool) -> Server:
        path = Path(self.enter_context(tempfile.TemporaryDirectory()))
        save(path, self._scope.size)
        settings = None if stock else {"keep": 1.0}
        server = self.enter_context(serve(path, settings, OPTIONS, {**os.environ, **ENVIRONMENT}))
        for workload in self._scope.workloads:  # whatever is done only once
            load(server, [self._request(workload, None)] * 2, 1)
        return server

    def cases(self) -> Iterator[Case]:
        """Every round runs every arm of a load once, in an order of its own."""
        for round_ in range(1, self._scope.rounds + 1):
            for workload in self._scope.workloads:
                for concurrent, number in self._scope.loads:
                    order = list(arms())
                    random.Random(f"{self._seed} {round_} {concurrent}").shuffle(order)
                    for arm, keep in order:
                        yield (
                            key(workload, concurrent, arm, round_),
                            functools.partial(self._load, workload, concurrent, number, keep),
                        )

    def _load(
        self, workload: Workload, concurrent: int, number: int, keep: float | None
    ) -> dict[str, Any]:
        requests = [self._request(workload, keep) for _ in range(number)]
        return figures(*load(self.server(keep is None), requests, concurrent))

    def _request(self, workload: Workload, keep: float | None) -> Request:
        """An image that no cache has seen."""
        from PIL import Image

        self._asked += 1
        noise = np.random.default_rng([self._seed, self._asked]).integers(0, 255, (24, 24, 3))
        side = workload.side * PIXELS
        image = Image.fromarray(noise.astype(np.uint8)).resize((side, side))
        return Request(data_url(image), None if keep is None else {"keep": keep}, workload.new)
