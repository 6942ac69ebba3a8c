"""Run by a test in a process of its own, since ranks are processes that start from their parent's.

    python -m tests.engines.vllm.ranks '{"llava": {"path": ..., "marks": [...]}, ...}'

prints the answers to QUESTIONS for everything in ASKED, and merged with a mass, as one line of
JSON.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from .engines import ENVIRONMENT, ask, engine, questions

KEEP = 0.25
WEIGHING = ("llava", "qwen2_5_vl")  # whose engines have wider heads
ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"merge": True},
    {"encoder_keep": 0.35, "encoder_after": 0.34},
)
WEIGHED = {"merge": True, "mass": "token"}
HEARD = {"method": "transport", "question": 0.9}


def answers(name: str, path: str, marks: Any) -> list[Any]:
    """What two ranks answer to each of `ASKED`, and to `WEIGHED` and `HEARD`."""
    weighs = name in WEIGHING
    with engine(path, {"keep": KEEP, "allow_mass": weighs}, tensor_parallel_size=2) as llm:
        return [
            [
                asdict(answer)
                for answer in ask(llm, [q.request(marks, **asked) for q in questions(marks)])
            ]
            for asked in (*ASKED, *([WEIGHED, HEARD] if weighs else []))
        ]


def main() -> None:
    """Answer and print."""
    os.environ.update(ENVIRONMENT)
    made = {name: answers(name, **wanted) for name, wanted in json.loads(sys.argv[1]).items()}
    print("ANSWERS", json.dumps(made))


if __name__ == "__main__":
    main()
