"""A method's own settings and "recommended" prune as they do in transformers."""

from __future__ import annotations

import json

import pytest
import torch

from otprune.engines.transformers import selection as plain
from otprune.engines.vllm import rows
from otprune.engines.vllm import selection as served
from otprune.engines.vllm.settings import engine_settings, request_settings
from otprune.selectors import by_name
from tests.random_tokens import random_tokens

from .checkpoints import CHECKPOINTS
from .engines import QUESTIONS, Question, ask, engine
from .test_families import agree

ASKED = [
    {"gamma": 0.01},
    {"rank": 64},
    {"rank": 32, "gamma": 1.0},  # the tokens of the tiny checkpoints have 64 features
    {"method": "transport", "metric": "euclidean"},
    {"method": "transport", "metric": "euclidean", "merge": True},
    {"method": "random", "seed": 3},
    {"method": "recommended"},
]


def arguments(asked, keep):
    """Selector and merge, as in Python; and the mass."""
    made = by_name(**{"method": "otprune", "keep": keep, **asked})
    return made["selector"], made["merge"], {"mass": made["mass"], "alpha": made["alpha"]}


@pytest.mark.parametrize("by_request", [False, True], ids=["engine", "request"])
def test_what_a_worker_is_told_gives_the_choice_of_transformers(by_request):
    """All images in one batch, as an encoder run may have them; no vLLM needed."""
    images = [random_tokens(80, 96, seed=seed).exp() for seed in range(len(ASKED))]
    plans = []
    for asked in ASKED:
        given = json.loads(json.dumps(asked))
        if by_request:
            engine = engine_settings({"keep": 0.1, "allow_mass": True})
            settings = request_settings(engine, {"keep": 0.25, **given})
        else:
            settings = engine_settings({"keep": 0.25, **given})
        plans.append(rows.plan(settings.asked_of("image"), sets=1, m=80))
    told = [rows.read(rows.write(plan)) for plan in plans]
    for asked, image, got in zip(ASKED, images, served.choose(images, told), strict=True):
        selector, merge, _ = arguments(asked, 0.25)
        ((wanted),) = plain.choose(selector, [image], [0], merge)
        assert torch.equal(got.indices, wanted.made.indices)
        torch.testing.assert_close(got.rows, wanted.made.features)
    assert (
        len({tuple(kept.indices.tolist()) for kept in served.choose(images[:1] * 4, told[:4])}) == 4
    )


def check_rates(llm, marks):
    """An image and a video of one prompt may be pruned at different rates."""
    question = Question("first {} then [] and more text", (1,), (1,))
    asked = [
        {"keep": 0.25},
        {"image_pruning_rate": 0.75, "video_pruning_rate": 0.75},
        {"keep": 0.25, "video_retention_ratio": 0.25},
        {"image_pruning_rate": 0.75, "video_pruning_rate": 0},
        {"image_pruning_rate": 0.0, "video_pruning_rate": 0.75},
        {"keep": 1.0},
    ]
    answers = ask(llm, [question.request(marks, **how) for how in asked])
    both, named, mixed = ((answer.prompt, answer.ids) for answer in answers[:3])
    assert both == named == mixed
    pruned, _, _, image, video, whole = (answer.prompt for answer in answers)
    assert pruned < min(image, video) < whole
    assert pruned + whole == image + video


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_requests_with_settings_of_their_own(name, checkpoint, reference):
    """Asked all at once, so that rows of several lengths meet in one encoder run."""
    path, marks = checkpoint(name)
    with engine(path, {"keep": 0.25, "allow_mass": True}) as llm:
        requests = [QUESTIONS[0].request(marks, **asked) for asked in ASKED]
        first, cached = ask(llm, requests), ask(llm, requests)
        if marks[1] is not None:
            check_rates(llm, marks)
    for answers in (first, cached):
        for asked, answer in zip(ASKED, answers, strict=True):
            selector, merge, mass = arguments(asked, 0.25)
            positions = CHECKPOINTS[name].positions
            agree(answer, reference(name)(QUESTIONS[0], selector, positions, merge, **mass))
    assert len({tuple(answer.ids) for answer in first}) > 1


@pytest.mark.vllm
@pytest.mark.parametrize("asked", [{"gamma": 0.01, "rank": 32}, {"method": "recommended"}])
def test_an_engine_with_settings(asked, checkpoint, reference):
    path, marks = checkpoint("llava")
    selector, merge, mass = arguments(asked, 0.25)
    other = {"method": "random", "seed": 3}
    with engine(path, {"keep": 0.25, **asked}) as llm:
        answers = ask(llm, [q.request(marks) for q in QUESTIONS[:3]])
        (changed,) = ask(llm, [QUESTIONS[0].request(marks, **other)])
    for question, answer in zip(QUESTIONS[:3], answers, strict=True):
        agree(answer, reference("llava")(question, selector, "compact", merge, **mass))
    selector, merge, mass = arguments(other, 0.25)
    agree(changed, reference("llava")(QUESTIONS[0], selector, "compact", merge, **mass))
