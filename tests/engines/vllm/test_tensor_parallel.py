"""Tensor parallel: two ranks give the answers of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import otprune

from . import ranks
from .checkpoints import CHECKPOINTS
from .engines import Answer, questions
from .test_families import agree, is_comparable, stage_of
from .test_hard_cases import agree_all

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def of_two_ranks(checkpoint):
    """Every family's answers to what `ranks` asks."""
    wanted = {}
    for name in CHECKPOINTS:
        path, marks = checkpoint(name)
        wanted[name] = {"path": str(path), "marks": marks}
    run = subprocess.run(
        [sys.executable, "-m", "tests.engines.vllm.ranks", json.dumps(wanted)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (line,) = (x for x in run.stdout.splitlines() if x.startswith("ANSWERS "))
    return json.loads(line.removeprefix("ANSWERS "))


def answers_of(name, of_two_ranks, number):
    return [
        Answer(**{**x, "likely": [{int(k): v for k, v in d.items()} for d in x["likely"]]})
        for x in of_two_ranks[name][number]
    ]


@pytest.mark.parametrize("number", range(len(ranks.ASKED)), ids=lambda i: str(ranks.ASKED[i]))
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_tensor_parallel(name, checkpoint, reference, of_two_ranks, number):
    _, marks = checkpoint(name)
    family, asked = CHECKPOINTS[name], ranks.ASKED[number]
    answers = answers_of(name, of_two_ranks, number)
    for question, answer in zip(questions(marks), answers, strict=True):
        if not is_comparable(family, asked, question):
            continue
        wanted = reference(name)(
            question,
            otprune.OTPrune(ranks.KEEP),
            family.positions,
            asked.get("merge", False),
            encoder=stage_of(asked),
        )
        agree(answer, wanted)


@pytest.mark.parametrize("name", ranks.WEIGHING)
def test_tensor_parallel_with_mass(name, checkpoint, reference, of_two_ranks):
    _, marks = checkpoint(name)
    made = answers_of(name, of_two_ranks, len(ranks.ASKED))
    agree_all(name, made, marks, reference, ranks.KEEP, **ranks.WEIGHED)


@pytest.mark.parametrize("name", ranks.WEIGHING)
def test_tensor_parallel_with_a_question(name, checkpoint, reference, of_two_ranks):
    """Both ranks embed the words, whose embeddings are split between them."""
    _, marks = checkpoint(name)
    selector = otprune.TransportPrune(ranks.KEEP, question=0.9)
    made = answers_of(name, of_two_ranks, len(ranks.ASKED) + 1)
    for question, answer in zip(questions(marks), made, strict=True):
        agree(answer, reference(name)(question, selector, CHECKPOINTS[name].positions))
