"""`vllm serve` on the loopback, and questions to it, timed."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprune.errors import MissingDependencyError, OTPruneError

READY = "Application startup complete"
NAME = "served"

# A quick and quiet start on a few cores; waiting threads would take time from working ones.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}


@dataclass(frozen=True)
class Server:
    """A running server: its process, what it printed so far, and a client of the openai package."""

    process: subprocess.Popen[str]
    lines: list[str]
    client: Any


@dataclass(frozen=True)
class Request:
    """One question: an image as a data URL, what is asked of pruning, tokens to answer with."""

    image: str | None
    otprune: dict[str, Any] | None
    new: int


@dataclass(frozen=True)
class Reply:
    """Seconds to the first token and to the last, tokens of prompt and answer, and the text."""

    first: float
    whole: float
    prompt: int
    answer: int
    text: str


@contextmanager
def serve(
    path: Path,
    otprune: dict[str, Any] | None,
    options: Sequence[str],
    environment: dict[str, str],
) -> Iterator[Server]:
    """A server of a checkpoint, stopped when the block ends.

    Args:
        path: the checkpoint's folder.
        otprune: whole-engine settings; None for vLLM as it is.
        options: more of the command line.
        environment: of the process.

    Raises:
        MissingDependencyError: vLLM is not in this environment.
        OTPruneError: the server did not come up; with the end of what it said.
    """
    program = Path(sys.executable).parent / "vllm"
    if not program.exists():
        raise MissingDependencyError(
            f"{program} is not there: install vLLM into this environment (make test-vllm makes "
            "one, .venv-vllm)"
        )
    import openai

    port = _free_port()
    command = [str(program), "serve", str(path), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", NAME, "--trust-request-mm-kwargs", *options]
    if otprune is not None:
        command += ["--hf-overrides", json.dumps({"otprune": otprune})]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        for line in process.stdout:
            lines.append(line)
            if READY in line:
                break
        else:
            raise OTPruneError(f"vllm serve ended before it was ready: {''.join(lines[-20:])}")
        # A full pipe would stop the server.
        threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True).start()
        url = f"http://127.0.0.1:{port}/v1"
        yield Server(process, lines, openai.OpenAI(base_url=url, api_key="none", max_retries=0))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()


def data_url(image: Any) -> str:
    """A PIL image as the data URL of a PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def ask(server: Server, request: Request) -> Reply:
    """One greedy answer of exactly `new` tokens, streamed."""
    content: list[dict[str, Any]] = [{"type": "text", "text": "what is it?"}]
    if request.image is not None:
        content.insert(0, {"type": "image_url", "image_url": {"url": request.image}})
    extra: dict[str, Any] = {"ignore_eos": True}
    if request.otprune is not None:
        extra["mm_processor_kwargs"] = {"otprune": request.otprune}
    start = time.perf_counter()
    stream = server.client.chat.completions.create(
        model=NAME,
        messages=[{"role": "user", "content": content}],
        max_tokens=request.new,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=extra,
    )
    first, text, usage = None, [], None
    for chunk in stream:
        if chunk.choices:  # the first comes with the first token, whose bytes may be no text yet
            first = first or time.perf_counter() - start
            text.append(chunk.choices[0].delta.content or "")
        usage = chunk.usage or usage
    whole = time.perf_counter() - start
    assert usage is not None
    return Reply(first or whole, whole, usage.prompt_tokens, usage.completion_tokens, "".join(text))


def load(server: Server, requests: Sequence[Request], concurrent: int) -> tuple[list[Reply], float]:
    """Replies, in order, with `concurrent` requests under way at any time; and seconds in all."""
    start = time.perf_counter()
    with ThreadPoolExecutor(concurrent) as pool:
        replies = list(pool.map(lambda request: ask(server, request), requests))
    return replies, time.perf_counter() - start


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port
