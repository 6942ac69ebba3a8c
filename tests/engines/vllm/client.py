"""Asks a server about every sample photograph, several times at once: a line of JSON.

    python -m tests.engines.vllm.client http://10.77.0.1:8123

Run where the server is reached: in a network namespace it is not reached from outside.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from otprune.demo import SAMPLES_DIR

TIMES = 3


def ask(server: str, path: Path) -> tuple[str, str, int]:
    """The name of a photograph, the answer, and the length of the prompt."""
    photo = base64.b64encode(path.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{photo}"}},
        {"type": "text", "text": "Is there a star?"},
    ]
    body = {"model": "demo", "messages": [{"role": "user", "content": parts}], "temperature": 0}
    request = urllib.request.Request(
        f"{server}/v1/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        said = json.load(reply)
    answer = said["choices"][0]["message"]["content"].strip()
    return path.stem, answer, said["usage"]["prompt_tokens"]


def main() -> None:
    """Ask and print."""
    server = sys.argv[1]
    paths = sorted(SAMPLES_DIR.glob("*.jpg")) * TIMES
    with ThreadPoolExecutor(len(paths)) as pool:
        made = list(pool.map(lambda path: ask(server, path), paths))
    with urllib.request.urlopen(f"{server}/metrics", timeout=60) as reply:
        metrics = reply.read().decode()
    served = re.findall(r'^vllm:prompt_tokens_total\{engine="(\d+)".*\} (\S+)', metrics, re.M)
    print(
        json.dumps(
            {
                "answers": sorted({(name, answer) for name, answer, _ in made}),
                "prompt_tokens": sorted({length for *_, length in made}),
                "engines": {engine: float(tokens) for engine, tokens in served},
            }
        )
    )


if __name__ == "__main__":
    main()
