"""Where an engine could go wrong and nobody notice: chunks, caches, ranks, several engines."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import otprune
from otprune.engines.vllm import private

from . import ranks
from .engines import QUESTIONS, Answer, Question, ask, engine
from .test_families import agree

pytestmark = pytest.mark.vllm

NAMES = ["llava", "qwen2_5_vl"]
LONG = "and now a text that fills more than one block of the cache, so that all in front is kept: "
TURNS = [Question("{}" + LONG + "one?", (0,)), Question("{}" + LONG + "two, or three?", (0,))]


def positions_of(name):
    return "compact" if name == "llava" else "preserved"


def agree_all(answers, questions, reference, selector, positions, merge=False):
    for question, answer in zip(questions, answers, strict=True):
        agree(answer, reference(question, selector, positions, merge))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("caching", [False, True])
def test_chunks_that_end_inside_an_image(name, caching, checkpoint, reference):
    path, placeholder = checkpoint(name)
    chunk = {"max_num_batched_tokens": 20, "enable_prefix_caching": caching}
    with engine(path, {"keep": 0.5}, **chunk) as llm:
        alone = [ask(llm, [q.request(placeholder)])[0] for q in QUESTIONS]
        together = ask(llm, [q.request(placeholder) for q in QUESTIONS])
    assert any(len(q.images) and a.prompt > 2 * 20 for q, a in zip(QUESTIONS, alone, strict=True))
    for answers in (alone, together):
        agree_all(answers, QUESTIONS, reference(name), otprune.OTPrune(0.5), positions_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_cached_prefix_that_covers_the_whole_image(name, checkpoint, reference):
    path, placeholder = checkpoint(name)
    with engine(path, {"keep": 0.25}) as llm:
        first, second = (ask(llm, [q.request(placeholder)])[0] for q in TURNS)
        other = ask(llm, [TURNS[1].request(placeholder, keep=0.3)])[0]
    assert first.cached == 0
    assert second.cached >= 64  # image, 15 or 16 tokens, and text behind it
    assert other.cached == 0, "another ratio must not be answered from this one's cache"
    for answer, question, keep in [(first, 0, 0.25), (second, 1, 0.25), (other, 1, 0.3)]:
        wanted = reference(name)(TURNS[question], otprune.OTPrune(keep), positions_of(name))
        agree(answer, wanted)


def test_compact_positions_on_request_of_the_engine(checkpoint, reference):
    path, placeholder = checkpoint("qwen2_5_vl")
    with engine(path, {"keep": 0.25, "positions": "compact"}) as llm:
        asked = [q.request(placeholder) for q in QUESTIONS]
        first, cached = ask(llm, asked), ask(llm, asked)
        whole = ask(llm, [q.request(placeholder, keep=1.0) for q in QUESTIONS])
    for answers in (first, cached):
        agree_all(answers, QUESTIONS, reference("qwen2_5_vl"), otprune.OTPrune(0.25), "compact")
    agree_all(whole, QUESTIONS, reference("qwen2_5_vl"), otprune.OTPrune(1.0), "preserved")


@pytest.mark.parametrize("name", NAMES)
def test_two_engines_in_one_process(name, checkpoint, reference):
    path, placeholder = checkpoint(name)
    asked = [q.request(placeholder) for q in QUESTIONS]
    with engine(path, {"keep": 0.5}) as half, engine(path, {"keep": 0.1}) as tenth:
        answers = {0.5: ask(half, asked), 0.1: ask(tenth, asked)}
        again = ask(half, asked)
    for keep, made in (*answers.items(), (0.5, again)):
        agree_all(made, QUESTIONS, reference(name), otprune.OTPrune(keep), positions_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16(name, checkpoint, reference):
    """Positions travel with features in their dtype: with all kept, not a bit may change."""
    path, placeholder = checkpoint(name)
    asked = [q.request(placeholder) for q in QUESTIONS]
    with engine(path, dtype="bfloat16") as llm:
        stock = ask(llm, asked)
    with engine(path, {"keep": 1.0}, dtype="bfloat16") as llm:
        whole = ask(llm, asked)
        pruned = ask(llm, [q.request(placeholder, keep=0.25) for q in QUESTIONS])
    assert [replace(a, cached=0) for a in whole] == [replace(a, cached=0) for a in stock]
    for question, answer in zip(QUESTIONS, pruned, strict=True):
        length, _, likely = reference(name)(question, otprune.OTPrune(0.25), positions_of(name))
        assert answer.prompt == length
        gaps = [abs(float(likely[0, t]) - x) for t, x in answer.likely[0].items()]
        assert max(gaps) < 1.0  # eight bits of mantissa, two layers of large weights


@pytest.mark.parametrize("name", NAMES)
def test_tensor_parallel(name, checkpoint, reference):
    path, placeholder = checkpoint(name)
    wanted = json.dumps({"path": str(path), "placeholder": placeholder})
    run = subprocess.run(
        [sys.executable, "-m", "tests.engines.vllm.ranks", wanted],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
    (line,) = (x for x in run.stdout.splitlines() if x.startswith("ANSWERS "))
    selector = otprune.OTPrune(ranks.KEEP)
    for answers, merge in zip(
        json.loads(line.removeprefix("ANSWERS ")), (False, True), strict=True
    ):
        made = [
            Answer(**{**x, "likely": [{int(k): v for k, v in d.items()} for d in x["likely"]]})
            for x in answers
        ]
        agree_all(made, QUESTIONS, reference(name), selector, positions_of(name), merge)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"keep": 0.25}, {"pipeline_parallel_size": 2}, "pipeline parallel"),
        ({"keep": 0.25}, {"video_pruning_rate": 0.5}, "video pruning"),
        ({"keep": 7.5}, {}, "more than everything"),
        ({"keep": "auto"}, {}, "before any feature exists"),
    ],
)
def test_engines_that_are_refused(settings, options, said, checkpoint):
    """By the configuration itself, before a weight is read."""
    path, _ = checkpoint("qwen2_5_vl")
    with pytest.raises(ValueError, match=said), engine(path, settings, **options):
        pytest.fail("an engine was built")


def test_requests_that_are_refused(checkpoint, reference):
    """The engine lives on; and one that was not asked to prune says how to."""
    path, placeholder = checkpoint("llava")
    with engine(path, {"keep": 0.25}) as llm:
        for asked, said in [
            ({"keep": 7.5}, "more than everything"),
            ({"keep": "auto"}, "before any feature exists"),
            ({"positions": "compact"}, "expected only keep, method, merge"),
        ]:
            with pytest.raises(otprune.OTPruneError, match=said):
                ask(llm, [QUESTIONS[0].request(placeholder, **asked)])
        answer = ask(llm, [QUESTIONS[0].request(placeholder)])[0]
    agree(answer, reference("llava")(QUESTIONS[0], otprune.OTPrune(0.25), "compact"))
    with (
        engine(path) as llm,
        pytest.raises(otprune.UnsupportedError, match="started without otprune"),
    ):
        ask(llm, [QUESTIONS[0].request(placeholder, keep=0.5)])


def test_another_model_is_served_unchanged(environment, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from otprune.bench.serving_model import byte_tokenizer

    from .checkpoints import TEXT

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**TEXT)).save_pretrained(tmp_path)
    byte_tokenizer((), "").save_pretrained(tmp_path)
    answers = []
    for settings in (None, {"keep": 0.25}):
        with engine(tmp_path, settings, limit_mm_per_prompt={}) as llm:
            answers.append(ask(llm, [{"prompt": "a text"}]))
    assert answers[0] == answers[1]


def test_what_otprune_leans_on_in_vllm_is_where_it_was(environment):
    assert private.moved() == []


def test_what_moved_is_named(environment, monkeypatch):
    used = (("vllm.config", "NoSuchConfig", None), ("vllm", "LLM.generate", ("self", "shape")))
    monkeypatch.setattr(private, "USED", used)
    gone, other = private.moved()
    assert gone.startswith("vllm.config:NoSuchConfig is gone")
    assert other.startswith("vllm:LLM.generate takes ('self', ")


def test_a_configuration_that_asks_for_positions_travels(environment):
    from vllm.config import MultiModalConfig

    config = MultiModalConfig()
    assert not config.is_multimodal_pruning_enabled()
    private.ask_for_positions(config)
    assert pickle.loads(pickle.dumps(config)).is_multimodal_pruning_enabled()
    assert config.get_video_pruning_spec() is None


UNTESTED = """
import sys, vllm
vllm.__version__ = "0.99.0"
from vllm import EngineArgs, ModelRegistry
for keep in ({"keep": 0.5, "untested_vllm": "unpruned"}, {"keep": 0.5}):
    print("asking", keep)
    EngineArgs(model=sys.argv[1], hf_overrides={"otprune": keep}).create_engine_config()
"""


def test_an_untested_vllm_is_told_apart(checkpoint):
    path, _ = checkpoint("llava")
    run = subprocess.run(
        [sys.executable, "-c", UNTESTED, str(path)], capture_output=True, text=True, check=False
    )
    said = run.stdout + run.stderr
    assert run.returncode != 0
    assert "images are NOT pruned" in said
    assert said.index("NOT pruned") < said.index("'keep': 0.5}\n")
    assert "vLLM 0.99.0: otprune was tested with 0.32.x; install that, or say" in said
