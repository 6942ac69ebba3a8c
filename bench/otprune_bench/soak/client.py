"""Sends one request and says what came of it."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from otprune_bench.served.server import NAME
from otprune_bench.soak.media import Broken, Image, Video
from otprune_bench.soak.requests import Ask

PATIENCE = 180.0


@dataclass
class Outcome:
    """What came of a request.

    Attributes:
        status: of HTTP; 0 where the client left, or nothing came.
        error: the message of a refusal, or of the exception that the client got.
        prompt: tokens of the prompt, as the server counts them.
        ids: tokens of the answer.
        likely: their log-probabilities, if it was asked for.
        first, whole: seconds to the first token and to the last; None where there is none.
        again: it was sent a second time, see `retryable`.
    """

    status: int = 0
    error: str | None = None
    prompt: int | None = None
    ids: list[int] = field(default_factory=list)
    likely: list[float] = field(default_factory=list)
    first: float | None = None
    whole: float | None = None
    again: bool = False

    @property
    def retryable(self) -> bool:
        """Whether this is how vLLM says that an image must be sent again.

        Its API server does not send an image that it believes the engine to have. If a client left
        before the engine got the image, that is wrong, and the next request with that image gets
        this error, once.
        """
        return self.status in (200, 500) and "Internal server error" in (self.error or "")


def body(ask: Ask) -> dict[str, Any]:
    """The request as JSON of the chat completions API, with what vLLM adds to it."""

    def content(part: Any) -> dict[str, Any]:
        if isinstance(part, (Image, Broken)):
            return {"type": "image_url", "image_url": {"url": part.url()}}
        if isinstance(part, Video):
            return {"type": "video_url", "video_url": {"url": part.url()}}
        return {"type": "text", "text": part}

    made: dict[str, Any] = {
        "model": NAME,
        "messages": [
            {"role": who, "content": [content(part) for part in parts]} for who, parts in ask.turns
        ],
        "max_tokens": ask.new,
        "temperature": 0,
        "ignore_eos": True,
        "stream": ask.stream,
        "return_token_ids": True,
    }
    if ask.stream:
        made["stream_options"] = {"include_usage": True}
    if ask.sampled:
        made["logprobs"] = True
    if ask.otprune is not None:
        made["mm_processor_kwargs"] = {"otprune": ask.otprune}
    frames = [x for x in ask.media() if isinstance(x, Video) and x.form == "jpeg"]
    if frames:
        made["media_io_kwargs"] = {"video": {"fps": frames[0].fps}}
    return made


def send(client: Any, ask: Ask, number: int, seconds: float = PATIENCE) -> Outcome:
    """Ask, and wait for the answer, or leave where the request's kind says so.

    Args:
        client: of httpx, whose base is the server's address.
        number: of the request, from which follows how soon one leaves before the first token.
        seconds: without a byte after which an answer counts as not coming.
    """
    import httpx

    patience = httpx.Timeout(seconds)
    if ask.kind == "left before a token":
        patience = httpx.Timeout(seconds, read=random.Random(number).uniform(0.001, 0.5))
    found, content, start = Outcome(), body(ask), time.perf_counter()
    try:
        with client.stream("POST", "/v1/chat/completions", json=content, timeout=patience) as reply:
            if ask.kind == "left before a token":
                return found
            found.status = reply.status_code
            if found.status != 200:
                found.error = _message(reply.read())
                return found
            if not ask.stream:
                _take(json.loads(reply.read()), found)
            for line in reply.iter_lines() if ask.stream else ():
                if not line.startswith("data: {"):
                    continue
                _take(json.loads(line[len("data: ") :]), found)
                if found.ids and found.first is None:
                    found.first = time.perf_counter() - start
                    if ask.kind == "left after a token":
                        return found
    except httpx.ReadTimeout as cause:
        if ask.kind != "left before a token":
            found.error = f"{type(cause).__name__}: nothing came in {seconds:.0f} s"
    except (httpx.HTTPError, ValueError, KeyError) as cause:
        found.error = f"{type(cause).__name__}: {cause}"
    else:
        found.whole = time.perf_counter() - start
    return found


def _take(said: dict[str, Any], found: Outcome) -> None:
    """Add a whole answer, or a piece of one, to what was found."""
    if "error" in said:
        found.error = str(said["error"])
    for choice in said.get("choices") or ():
        found.ids += choice.get("token_ids") or []
        steps = (choice.get("logprobs") or {}).get("content") or ()
        found.likely += [step["logprob"] for step in steps]
    usage = said.get("usage")
    if usage:
        found.prompt = usage["prompt_tokens"]


def _message(data: bytes) -> str:
    try:
        said = json.loads(data)
        return str(said["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace")[:300]
