"""What pruning does to a vLLM server under load: time to first token, and throughput."""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from otprune_bench.runs.cases import Case
from otprune_bench.served.model import PIXELS, save
from otprune_bench.served.server import (
    ENVIRONMENT,
    Reply,
    Request,
    Server,
    data_url,
    load,
    serve,
)
from otprune_bench.serving.plan import Arm, Plan, Workload, key

OPTIONS = (
    *("--load-format", "dummy", "--dtype", "float32", "--enforce-eager", "--block-size", "32"),
    *("--max-model-len", "2048", "--max-num-seqs", "16", "--max-num-batched-tokens", "2048"),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}'),
)


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


class Servers(ExitStack):
    """The servers, each started at its first request; only one gets requests at a time."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan, self._asked = plan, 0
        self.server = cache(self._server)  # by whether it is vLLM alone, and the earlier build

    def _server(self, stock: bool, before: bool) -> Server:
        path = Path(self.enter_context(tempfile.TemporaryDirectory()))
        save(path, self._plan.size, self._plan.tower)
        environment = {**os.environ, **ENVIRONMENT}
        if before:
            environment["PYTHONPATH"] = str(self._plan.against)
        settings = None if stock else {"keep": 1.0}
        server = self.enter_context(serve(path, settings, OPTIONS, environment))
        for workload in self._plan.workloads:  # whatever is done only once
            load(server, [self._request(workload, Arm(None))] * 2, 1)
        return server

    def cases(self) -> Iterator[Case]:
        """Every round runs every arm of a load once, in an order of its own."""
        for number in range(1, self._plan.rounds + 1):
            for workload in self._plan.workloads:
                for concurrent, requests in self._plan.loads:
                    order = list(self._plan.arms(workload).items())
                    random.Random(f"{self._plan.seed} {number} {concurrent}").shuffle(order)
                    for name, arm in order:
                        yield (
                            key(workload, concurrent, name, number),
                            partial(self._load, workload, concurrent, requests, arm),
                        )

    def _load(self, workload: Workload, concurrent: int, number: int, arm: Arm) -> dict[str, Any]:
        requests = [self._request(workload, arm) for _ in range(number)]
        return figures(*load(self.server(arm.asked is None, arm.before), requests, concurrent))

    def _request(self, workload: Workload, arm: Arm) -> Request:
        """An image that no cache has seen."""
        self._asked += 1
        noise = np.random.default_rng([self._plan.seed, self._asked]).integers(0, 255, (24, 24, 3))
        side = workload.side * PIXELS
        image = Image.fromarray(noise.astype(np.uint8)).resize((side, side))
        return Request(data_url(image), arm.asked, workload.new)
