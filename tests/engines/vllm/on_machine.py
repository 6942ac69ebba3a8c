"""Run on a machine of the tests: the answers of one engine as a line of JSON.

python -m tests.engines.vllm.on_machine CHECKPOINT '["<image>", null]' '{"tensor_parallel_size": 2}'
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from .engines import ask, engine, questions

KEEP = 0.25


def main() -> None:
    """Answer and print."""
    path, marks, options = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    with engine(path, {"keep": KEEP}, **options) as llm:
        made = ask(llm, [q.request(marks) for q in questions(marks)])
    print("ANSWERS", json.dumps([asdict(x) for x in made]), flush=True)


if __name__ == "__main__":
    main()
