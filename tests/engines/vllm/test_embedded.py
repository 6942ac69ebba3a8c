"""The embedded model in vLLM: real questions, answered as in transformers with the same pruning."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import otprune
from otprune.demo import MODEL_DIR, SAMPLES_DIR, load
from otprune_bench.served.server import NAME, serve
from otprune_training.batches import MIX
from otprune_training.evaluate import answer
from otprune_training.questions import ask_many
from otprune_training.scenes import render, sample_scene
from tests.demo.test_model import ASKED

from .engines import engine

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.vllm

# How much is kept, and the least share of right answers then.
KEEPS = {1.0: 1.0, 0.25: 0.95, 0.1: 0.95, 0.05: 0.9}


def scenes(number):
    """Stickers on plain ground, and questions about them with their answers."""
    rng = np.random.default_rng(0)
    ground = [Image.new("RGB", (384, 384), rgb) for rgb in ((96, 88, 80), (150, 160, 150))]
    for _ in range(number):
        scene = sample_scene(rng, [x.size for x in ground])
        asked = ask_many(scene, rng, [MIX[i] for i in rng.permutation(len(MIX))][:6])
        yield render(scene, ground, scale=4), {q.text: q.answer for q in asked}


@pytest.fixture(scope="module")
def questions():
    """Images and what is asked about them: the samples, and scenes made here."""
    samples = [(Image.open(SAMPLES_DIR / f"{name}.jpg"), asked) for name, asked in ASKED.items()]
    return [*samples, *scenes(10)]


@pytest.fixture(scope="module")
def server(environment):
    """As `make serve` starts one."""
    (line,) = re.findall(
        r"^serve:.*?(--dtype .*?) \\\n", (ROOT / "Makefile").read_text(), re.M | re.S
    )
    variables = {k: v for k, v in os.environ.items() if k != "VLLM_ENABLE_V1_MULTIPROCESSING"}
    with serve(MODEL_DIR, {"keep": 0.1}, line.split(), variables) as made:
        yield made


@pytest.fixture(scope="module")
def served(environment):
    """An engine in this process."""
    with engine(MODEL_DIR, {"keep": 0.1}) as llm:
        yield llm


def chat(llm, image, texts, **asked):
    """Answers, and tokens of each prompt."""
    from vllm import SamplingParams

    def messages(text):
        parts = [{"type": "image_pil", "image_pil": image}, {"type": "text", "text": text}]
        return [{"role": "user", "content": parts}]

    made = llm.chat(
        [messages(text) for text in texts],
        SamplingParams(temperature=0, max_tokens=24),
        use_tqdm=False,
        mm_processor_kwargs={"otprune": asked},
    )
    return [out.outputs[0].text.strip() for out in made], [
        len(out.prompt_token_ids) for out in made
    ]


def test_the_client_that_the_page_shows(server, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/vllm.md").read_text(), flags=re.S)
    (client,) = (block for block in blocks if "base64" in block)
    for shown, here in (
        ("http://127.0.0.1:8000/v1", str(server.client.base_url)),
        ('"demo"', repr(NAME)),
        ("src/otprune/demo/samples", str(SAMPLES_DIR)),
    ):
        assert shown in client
        client = client.replace(shown, here)
    exec(client, {})
    said = [line.split() for line in capsys.readouterr().out.splitlines()]
    keeps = {"1.0": "155", "0.25": "47", "0.1": "25", "0.05": "18"}
    assert said == [[keep, "yes", tokens] for keep, tokens in keeps.items()]


@pytest.mark.parametrize("keep", KEEPS)
def test_its_answers_are_those_of_transformers_and_right(served, questions, keep):
    model, processor = load()
    right = total = 0
    for image, asked in questions:
        with otprune.prune(model, otprune.OTPrune(keep), positions="compact") as run:
            wanted = answer(model, processor, image, [[text] for text in asked])
        answers, lengths = chat(served, image, list(asked), keep=keep)
        assert answers == wanted
        (kept,) = {item.after for item in run.last}
        assert kept == otprune.count(keep, 144)
        words = [len(processor.tokenizer(text).input_ids) for text in asked]
        assert lengths == [n + kept for n in words]
        right += sum(a == b for a, b in zip(answers, asked.values(), strict=True))
        total += len(asked)
    print(f"keep={keep}: {right} of {total} right")
    assert right >= KEEPS[keep] * total


@pytest.mark.parametrize("keep", [7, 4])
def test_the_question_helps_where_few_tokens_are_kept(served, questions, keep):
    model, processor = load()
    right = {0.0: 0, 0.9: 0}
    for image, asked in questions:
        for share in right:
            method = {"method": "transport", "question": share}
            answers, _ = chat(served, image, list(asked), keep=keep, **method)
            right[share] += sum(a == b for a, b in zip(answers, asked.values(), strict=True))
            if share:
                with otprune.prune(
                    model, otprune.TransportPrune(keep, question=share), positions="compact"
                ):
                    assert answers == answer(model, processor, image, [[x] for x in asked])
    print(f"keep={keep}: right {right}")
    assert right[0.9] >= right[0.0]
