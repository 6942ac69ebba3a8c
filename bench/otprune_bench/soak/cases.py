"""A server under a long mixed load: blocks of requests, each checked, then a clean stop."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from otprune.demo import MODEL_DIR
from otprune.errors import OTPruneError
from otprune_bench.runs.cases import Case
from otprune_bench.served.server import ENVIRONMENT, Server, serve
from otprune_bench.soak.client import Outcome, send
from otprune_bench.soak.counts import prompt_tokens
from otprune_bench.soak.media import Image
from otprune_bench.soak.model import save_qwen
from otprune_bench.soak.plan import ABORTED, EMBEDDED, ENGINE, QWEN, Plan, key, killed_key, stop_key
from otprune_bench.soak.processes import Watch, held, tree
from otprune_bench.soak.reference import Reference, comparable
from otprune_bench.soak.requests import Ask, Requests

# Caches so small that they are full after a few hundred requests: what then still grows is a leak.
OPTIONS = (
    *("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-model-len", "2048"),
    *("--max-num-seqs", "16", "--max-num-batched-tokens", "1024"),
    *("--num-gpu-blocks-override", "80", "--mm-processor-cache-gb", "0.05"),
    *("--disable-uvicorn-access-log", "--shutdown-timeout", "30"),
)
LIMITS = {QWEN: '{"image": 4, "video": 1}', EMBEDDED: '{"image": 4}'}
COUNTERS = (
    *("num_preemptions", "prefix_cache_queries", "prefix_cache_hits"),
    *("mm_cache_queries", "mm_cache_hits"),
)
SAMPLE_EVERY = 5.0  # seconds
LEAVE = 10.0  # seconds after which a client no longer waits for a server that was told to stop
LONG = 400  # tokens of an answer that is under way for a while
REST = 30.0  # seconds in which a server must have ended the requests that were left


class Soak(ExitStack):
    """The cases of a plan; a model's server starts at its first case and ends with its last."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self._up: dict[str, Up] = {}

    def cases(self) -> Iterator[Case]:
        """Blocks of each model in order, then its stop; before the last blocks, what is killed."""
        *_, last = self._plan.requests
        for model in self._plan.requests:
            for i, block in enumerate(self._plan.blocks(model)):
                yield key(model, block), partial(self._block, model, block)
                for role in self._plan.killed if model == last and i == 0 else ():
                    yield killed_key(model, role), partial(self._killed, model, role)
            yield stop_key(model), partial(self._stop, model)

    def _server(self, model: str) -> Up:
        if model not in self._up:
            self._up[model] = self.enter_context(Up(model))
        return self._up[model]

    def _block(self, model: str, block: range) -> dict[str, Any]:
        up, requests = self._server(model), Requests(self._plan, model)
        asks = [requests[i] for i in block]
        start = time.perf_counter()
        with ThreadPoolExecutor(self._plan.concurrent) as pool:
            outcomes = list(pool.map(up.send, asks, block))
        seconds = time.perf_counter() - start
        return {
            "seconds": seconds,
            "server": up.server.process.pid,
            **judged(model, up.reference, block, asks, outcomes),
            "rest": up.rest(),
            "memory": up.memory(),
        }

    def _killed(self, model: str, role: str) -> dict[str, Any]:
        """What becomes of requests under way, and of the server, when one of its processes dies."""
        up = self._server(model)
        image = Image(0, 300, 200)
        ask = Ask("image", (("user", (image, "Is there a star?")),), new=LONG)
        asks = [replace(ask, stream=bool(i % 2)) for i in range(self._plan.concurrent)]
        processes = tree(up.server.process.pid)
        (pid,) = (pid for pid, name in processes.items() if name == role)
        up.watch.stop()
        with ThreadPoolExecutor(len(asks)) as pool:
            under_way = [pool.submit(send, up.client, ask, 0, LEAVE) for ask in asks]
            time.sleep(1)
            start = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            outcomes = [one.result() for one in under_way]
            told = time.perf_counter() - start
        code = up.server.process.wait(timeout=120)
        seconds = time.perf_counter() - start
        self._up.pop(model).close()
        return {
            "until told": told,
            "seconds": seconds,
            "code": code,
            "alive": _alive(processes),
            **_broken_off(outcomes),
        }

    def _stop(self, model: str) -> dict[str, Any]:
        """What becomes of a server that is told to stop while it answers."""
        up, requests = self._server(model), Requests(self._plan, model)
        root = up.server.process.pid
        paths, processes = held(root, up.path), tree(root)
        up.watch.stop()
        with ThreadPoolExecutor(self._plan.concurrent) as pool:
            under_way = [
                pool.submit(send, up.client, requests[i], i, LEAVE)
                for i in range(self._plan.concurrent)
            ]
            time.sleep(0.3)
            start = time.perf_counter()
            up.server.process.send_signal(signal.SIGTERM)
            code = up.server.process.wait(timeout=120)
            seconds = time.perf_counter() - start
            outcomes = [one.result() for one in under_way]
        return {
            "seconds": seconds,
            "code": code,
            "processes": sorted(processes.values()),
            "alive": _alive(processes),
            "paths": len(paths),
            "left": sorted(path for path in paths if Path(path).exists()),
            "left kinds": sorted({_kind(path) for path in paths if Path(path).exists()}),
            **_broken_off(outcomes),
        }


class Up(ExitStack):
    """A server of one model with its client, its reference and what watches its memory."""

    def __init__(self, model: str) -> None:
        super().__init__()
        import httpx

        self._done = 0
        path = self.path = MODEL_DIR
        if model == QWEN:
            path = self.path = Path(self.enter_context(tempfile.TemporaryDirectory()))
            save_qwen(path)
        options = [*OPTIONS, "--limit-mm-per-prompt", LIMITS[model]]
        environment = {**os.environ, **ENVIRONMENT}
        for name in ("VLLM_ENABLE_V1_MULTIPROCESSING", "TRITON_INTERPRET"):  # of tests
            environment.pop(name, None)
        try:
            self.server: Server = self.enter_context(serve(path, ENGINE, options, environment))
            base = str(self.server.client.base_url).removesuffix("/v1/")
            self.client = self.enter_context(httpx.Client(base_url=base))
            self.reference = Reference(path, model)
        except BaseException:
            self.close()
            raise
        self.watch = Watch(self.server.process.pid, SAMPLE_EVERY, lambda: self._done)
        self.callback(self.watch.stop)

    def send(self, ask: Ask, number: int) -> Outcome:
        """Send one request; a second time where vLLM asks for it."""
        found = send(self.client, ask, number)
        if found.retryable and ask.said is None:
            found = send(self.client, ask, number)
            found.again = True
        self._done += 1
        return found

    def rest(self) -> dict[str, Any]:
        """Wait until the server has nothing to do, and say what it counted.

        Raises:
            OTPruneError: it still has requests after `REST` seconds.
        """
        end = time.perf_counter() + REST
        while True:
            said = self._metrics()
            if said["num_requests_running"] == said["num_requests_waiting"] == 0:
                break
            if time.perf_counter() > end:
                raise OTPruneError(f"requests are still there {REST:.0f} s after the last: {said}")
            time.sleep(0.2)
        log = "".join(self.server.lines)
        return {
            "counters": {name: said.get(f"{name}_total", 0.0) for name in COUNTERS},
            "cache used": said.get("kv_cache_usage_perc"),
            "tracebacks": log.count("Traceback (most recent call last)"),
            "cache drift": log.count("cache drift"),
        }

    def memory(self) -> dict[str, Any]:
        """Samples since the last call, and one now, at rest."""
        samples, self.watch.samples = self.watch.samples, []
        return {"samples": samples, "rest": self.watch.sample()}

    def _metrics(self) -> dict[str, float]:
        text = self.client.get("/metrics", timeout=60).text
        found = re.findall(r"^vllm:(\w+)\{[^}]*\} (\S+)$", text, flags=re.M)
        return {name: float(value) for name, value in found}


def judged(
    model: str, reference: Reference, block: range, asks: list[Ask], outcomes: list[Outcome]
) -> dict[str, Any]:
    """What came of a block of requests, by kind, with everything that was not as expected."""
    tokenizer = reference.processor.tokenizer
    kinds: dict[str, Any] = {}
    wrong_counts, unexpected, answers = [], [], []
    refusals: Counter[str] = Counter()
    for number, ask, outcome in zip(block, asks, outcomes, strict=True):
        one = kinds.setdefault(
            ask.kind, {"sent": 0, "answered": 0, "refused": 0, "left": 0, "again": 0}
        )
        one["sent"] += 1
        how = ended(ask, outcome)
        if how is None:
            unexpected.append(
                {"number": number, "kind": ask.kind, "status": outcome.status}
                | {"said": outcome.error, "tokens": len(outcome.ids)}
            )
            continue
        one[how] += 1
        one["again"] += outcome.again
        if how == "refused":
            refusals[f"{ask.kind}: {_short(outcome.error)}"] += 1
        if how != "answered":
            continue
        for name, value in (("first", outcome.first), ("whole", outcome.whole)):
            if value is not None:
                one.setdefault(name, []).append(round(1e3 * value))
        wanted = prompt_tokens(model, tokenizer, ask)
        if outcome.prompt != wanted:
            wrong_counts.append({"number": number, "got": outcome.prompt, "wanted": wanted})
        if ask.sampled and comparable(model, ask):
            answers.append({"number": number, **asdict(reference(ask, outcome))})
    return {
        "kinds": kinds,
        "wrong counts": wrong_counts,
        "unexpected": unexpected,
        "refusals": dict(refusals),
        "answers": answers,
    }


def ended(ask: Ask, outcome: Outcome) -> str | None:
    """How a request ended, "answered", "refused" or "left"; None if not as it should."""
    if ask.kind in ABORTED:
        return "left" if outcome.error is None else None
    if ask.said is not None:
        refused = outcome.status == 400 and ask.said in (outcome.error or "")
        return "refused" if refused else None
    whole = outcome.status == 200 and outcome.error is None and len(outcome.ids) == ask.new
    return "answered" if whole else None


def _alive(processes: dict[int, str]) -> list[str]:
    """Those that are still there a few seconds after their server ended."""
    end = time.perf_counter() + 10
    while found := [role for pid, role in processes.items() if pid in tree(pid)]:
        if time.perf_counter() > end:
            break
        time.sleep(0.2)
    return found


def _broken_off(outcomes: list[Outcome]) -> dict[str, Any]:
    """How many were under way, how many of them were answered, what the others were told."""
    told = [found.error for found in outcomes if found.error is not None]
    return {
        "under way": len(outcomes),
        "answered": sum(found.status == 200 and found.error is None for found in outcomes),
        "told": dict(Counter(map(_short, told))),
    }


def _kind(path: str) -> str:
    if path.startswith("/dev/shm/"):
        return "shared memory"
    return "Unix sockets" if Path(path).is_socket() else "temporary files"


def _short(message: str | None) -> str:
    """A message without its numbers, to count those that say the same."""
    return re.sub(r"\d+", "N", (message or "").split("\n")[0])[:110]
