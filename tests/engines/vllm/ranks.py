"""Run by a test in a process of its own, since ranks are processes that start from their parent's.

    python -m tests.engines.vllm.ranks '{"path": ..., "placeholder": ...}'

prints the answers to QUESTIONS, plain and merged, as one line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from .engines import ENVIRONMENT, QUESTIONS, ask, engine

KEEP = 0.25


def main() -> None:
    """Answer and print."""
    wanted = json.loads(sys.argv[1])
    os.environ.update(ENVIRONMENT)
    placeholder = wanted["placeholder"]
    with engine(wanted["path"], {"keep": KEEP}, tensor_parallel_size=2) as llm:
        plain = ask(llm, [q.request(placeholder) for q in QUESTIONS])
        merged = ask(llm, [q.request(placeholder, merge=True) for q in QUESTIONS])
    print("ANSWERS", json.dumps([[asdict(answer) for answer in x] for x in (plain, merged)]))


if __name__ == "__main__":
    main()
