"""On a GPU, with either of vLLM's model runners: the answers of transformers, same tokens dropped.

Not run on a GPU yet: none was available. With a card, and vLLM for CUDA:

    pip install -e '.[vllm,transformers]' ./training ./bench pytest
    pytest -m vllm_gpu tests/engines/vllm/test_gpu.py

About five minutes. What is looked at is what the runners do differently: the first (V1) keeps a
prompt's positions on the host, the second (V2, the default from 0.33 on) on the device; both hand
`recompute_mrope_positions` the features of one step, with positions appended, and take back what it
returns. A vLLM that otprune has not been tested with is tried all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import otprune

from .engines import Answer, Question, ask, engine, questions
from .test_mass import half_precision_agrees

pytestmark = pytest.mark.vllm_gpu

# Where each runner's class is defined.
RUNNERS = {
    "V1": ("0", "vllm.v1.worker.gpu_model_runner"),
    "V2": ("1", "vllm.v1.worker.gpu.model_runner"),
}
WAYS: dict[str, dict[str, Any]] = {
    "eager": {},
    # Steps that end inside an image: its features, and the positions behind them, arrive in parts.
    "in chunks": {"max_num_batched_tokens": 20},
    "CUDA graphs": {
        "enforce_eager": False,
        "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
    },
}
CASES = [("llava", "eager"), *(("qwen2_5_vl", way) for way in WAYS)]
KEEPS = (0.25, 0.5, 1.0)
# A kernel may multiply float32 in TF32; logits are about 10.
TOLERANCE = 0.05


@pytest.fixture(scope="module", autouse=True)
def card():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    pytest.importorskip("vllm", reason="needs vLLM for CUDA: pip install 'otprune[vllm]'")


@pytest.fixture(scope="module", params=RUNNERS)
def runner(card, environment, request):
    """One of the runners, chosen by vLLM's own variable; and otprune, whatever the version."""
    from otprune.engines.vllm import plugin

    value, module = RUNNERS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_USE_V2_MODEL_RUNNER", value)
        patch.setattr(plugin, "tested", lambda version: True)
        from vllm import envs

        # Later releases remember variables once an engine has started.
        getattr(envs, "disable_envs_cache", lambda: None)()
        yield module


def test_nothing_that_the_plugin_uses_has_changed(card):
    from otprune.engines.vllm.private import changed_internals

    assert changed_internals() == []


@dataclass(frozen=True)
class Wanted:
    """What transformers answers."""

    length: int
    ids: list[int]
    likely: torch.Tensor


def agree(answer: Answer, wanted: Wanted) -> None:
    """One prompt length; log-probabilities as close as `TOLERANCE` up to where near ties part."""
    assert answer.prompt == wanted.length
    for step, entries in enumerate(answer.likely):
        for token, value in entries.items():
            assert abs(float(wanted.likely[step, token]) - value) < TOLERANCE
        ours, theirs = answer.ids[step], wanted.ids[step]
        if ours != theirs:
            apart = wanted.likely[step, theirs] - wanted.likely[step, ours]
            assert float(apart) < TOLERANCE, "another token, and no near tie"
            return


@pytest.mark.parametrize(("family", "way"), CASES, ids=lambda x: x)
def test_it_answers_as_transformers(runner, family, way, checkpoint, reference):
    path, marks = checkpoint(family)
    asked = [q for q in questions(marks) if not q.videos]
    positions = "preserved" if family.startswith("qwen") else "compact"
    settings = {"gpu_memory_utilization": 0.3, **WAYS[way]}
    with engine(path, {"keep": KEEPS[0]}, **settings) as llm:
        (used,) = llm.collective_rpc(lambda worker: type(worker.model_runner).__module__)
        assert used == runner, f"vLLM chose {used}; try -k V1 or -k V2 in a process of its own"
        for keep in KEEPS:
            requests = [q.request(marks, keep=keep) for q in asked]
            llm.reset_prefix_cache()
            alone = [ask(llm, [request])[0] for request in requests]
            cached = ask(llm, requests)  # together, from the caches of prefixes and encoder
            for answers in (alone, cached):
                for question, answer in zip(asked, answers, strict=True):
                    agree(answer, expected(reference, family, question, keep, positions))


@pytest.mark.parametrize("way", WAYS)
def test_mass(runner, way, checkpoint, reference):
    """In half precision, which vLLM's flash attention needs; heads are 40 features wide, not 32."""
    options = {"gpu_memory_utilization": 0.3, **WAYS[way]}
    half_precision_agrees("llava", checkpoint, reference, **options)


def expected(
    reference: Any, family: str, question: Question, keep: float, positions: str
) -> Wanted:
    """In transformers, on the CPU."""
    return Wanted(*reference(family)(question, otprune.OTPrune(keep), positions))
