"""Where memory runs short or a request is dropped midway: what comes after is not corrupted."""

from __future__ import annotations

import pytest

import otprune

from .checkpoints import CHECKPOINTS
from .engines import ANSWER, QUESTIONS, ask, engine, questions
from .test_families import agree

pytestmark = pytest.mark.vllm

KEEPS = (0.25, 0.5, 1.0)


def asked_of(name, marks):
    """Questions, each with a ratio of its own, and the selectors that stand for these."""
    asked = questions(marks)
    keeps = [KEEPS[i % len(KEEPS)] for i in range(len(asked))]
    requests = [q.request(marks, keep=keep) for q, keep in zip(asked, keeps, strict=True)]
    return asked, requests, [otprune.OTPrune(keep) for keep in keeps]


def preemptions(llm):
    return sum(x.value for x in llm.get_metrics() if x.name == "vllm:num_preemptions")


@pytest.mark.parametrize(
    ("name", "caching"), [("qwen2_5_vl", True), ("qwen2_5_vl", False), ("qwen3_vl", True)]
)
def test_preempted_requests_are_answered_as_if_alone(name, caching, checkpoint, reference):
    """Where the cache is too small for all, a request is put off and its prompt computed again."""
    path, marks = checkpoint(name)
    asked, requests, selectors = asked_of(name, marks)
    small = {"num_gpu_blocks_override": 34, "enable_prefix_caching": caching}
    with engine(path, {"keep": 0.5}, disable_log_stats=False, **small) as llm:
        alone = [ask(llm, [request], new=120)[0] for request in requests]
        together = []
        for _ in range(2):  # where the cache of prefixes is on, its parts are lost and found again
            before = preemptions(llm)
            together += ask(llm, requests, new=120)
            assert preemptions(llm) > before
    assert [x.ids for x in together] == [x.ids for x in alone] * 2
    assert any(x.cached for x in together) == caching
    for question, selector, answer in zip(asked, selectors, alone, strict=True):
        length, ids, _ = reference(name)(question, selector, CHECKPOINTS[name].positions)
        assert (answer.prompt, answer.ids[:ANSWER]) == (length, ids)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_request_dropped_while_its_image_is_read_leaves_nothing_behind(
    name, checkpoint, reference
):
    """Its prompt takes several steps; after each of them it is dropped once, and asked again."""
    from vllm import SamplingParams

    path, marks = checkpoint(name)
    positions = CHECKPOINTS[name].positions
    question = QUESTIONS[2]
    request = question.request(marks)
    with engine(path, {"keep": 0.5}, max_num_batched_tokens=40) as llm:
        steps = 0
        for steps in range(1, 5):
            llm.reset_prefix_cache()
            llm.llm_engine.add_request(str(steps), request, SamplingParams(max_tokens=8))
            for _ in range(steps):
                llm.llm_engine.step()
            assert llm.llm_engine.has_unfinished_requests()
            llm.llm_engine.abort_request([str(steps)])
            other = question.request(marks, keep=0.25)
            answer, less = ask(llm, [request, other])
            agree(answer, reference(name)(question, otprune.OTPrune(0.5), positions))
            agree(less, reference(name)(question, otprune.OTPrune(0.25), positions))
        assert not llm.llm_engine.has_unfinished_requests()


def test_an_encoder_cache_that_is_too_small_for_a_request(checkpoint, reference):
    """One image that it cannot hold is refused; several that it cannot hold at once are not."""
    from vllm.exceptions import VLLMValidationError

    path, marks = checkpoint("llava")
    three = QUESTIONS[2]
    whole = QUESTIONS[0].request(marks, keep=1.0)  # 64 tokens, in a cache of 40
    with engine(path, {"keep": 0.25}, max_num_batched_tokens=40) as llm:
        for _ in range(2):
            with pytest.raises(VLLMValidationError, match=r"64 embedding tokens.* cache size 40"):
                ask(llm, [whole])
            answers = ask(llm, [three.request(marks, keep=0.5), three.request(marks)] * 3)
    for i, answer in enumerate(answers):
        selector = otprune.OTPrune((0.5, 0.25)[i % 2])
        agree(answer, reference("llava")(three, selector, "compact"))
