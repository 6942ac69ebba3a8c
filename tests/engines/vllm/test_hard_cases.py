"""Where an engine could answer wrongly without an error: chunks, caches, ranks, several engines."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import otprune
from otprune.engines.vllm import private
from otprune.engines.vllm.settings import engine_settings

from .checkpoints import CHECKPOINTS
from .engines import QUESTIONS, ask, engine, questions
from .test_families import agree

pytestmark = pytest.mark.vllm

MROPE = [name for name, made in CHECKPOINTS.items() if made.mrope]


def agree_all(name, answers, marks, reference, keep, merge=False, positions=None, **weighed):
    positions = positions or CHECKPOINTS[name].positions
    for question, answer in zip(questions(marks), answers, strict=True):
        agree(answer, reference(name)(question, otprune.OTPrune(keep), positions, merge, **weighed))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_chunks_that_end_inside_an_image(name, checkpoint, reference):
    path, marks = checkpoint(name)
    asked = [q.request(marks) for q in questions(marks)]
    with engine(path, {"keep": 0.5}, max_num_batched_tokens=20) as llm:
        alone = []
        for request in asked:
            llm.reset_prefix_cache()
            alone += ask(llm, [request])
        llm.reset_prefix_cache()
        together, cached = ask(llm, asked), ask(llm, asked)
    for question, answer in zip(questions(marks), alone, strict=True):
        assert answer.cached == 0
        assert answer.prompt > 2 * 20 or not (question.images or question.videos)
    assert any(answer.cached for answer in cached)
    for answers in (alone, together, cached):
        agree_all(name, answers, marks, reference, 0.5)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_a_selection_inside_the_encoder_for_a_whole_engine(name, checkpoint, reference):
    path, marks = checkpoint(name)
    stage = {"encoder_keep": 0.35, "encoder_after": 0.34}
    with engine(path, {"keep": 0.25, **stage}, max_num_batched_tokens=20) as llm:
        asked = [q.request(marks) for q in questions(marks)]
        made, cached = ask(llm, asked), ask(llm, asked)
        without = ask(llm, [q.request(marks, encoder_keep=1.0) for q in questions(marks)])
    inside, positions = otprune.EncoderStage(0.35, after=0.34), CHECKPOINTS[name].positions
    for question, *answers in zip(questions(marks), made, cached, strict=True):
        wanted = reference(name)(question, otprune.OTPrune(0.25), positions, encoder=inside)
        for answer in answers:
            agree(answer, wanted)
    agree_all(name, without, marks, reference, 0.25)


@pytest.mark.parametrize("name", MROPE)
def test_compact_positions_on_request_of_the_engine(name, checkpoint, reference):
    path, marks = checkpoint(name)
    with engine(path, {"keep": 0.25, "positions": "compact"}) as llm:
        asked = [q.request(marks) for q in questions(marks)]
        first, cached = ask(llm, asked), ask(llm, asked)
        whole = ask(llm, [q.request(marks, keep=1.0) for q in questions(marks)])
    for answers in (first, cached):
        agree_all(name, answers, marks, reference, 0.25, positions="compact")
    agree_all(name, whole, marks, reference, 1.0)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_two_engines_in_one_process(name, checkpoint, reference):
    path, marks = checkpoint(name)
    asked = [q.request(marks) for q in questions(marks)]
    with engine(path, {"keep": 0.5}) as half, engine(path, {"keep": 0.1}) as tenth:
        answers = {0.5: ask(half, asked), 0.1: ask(tenth, asked)}
        again = ask(half, asked)
    for keep, made in (*answers.items(), (0.5, again)):
        agree_all(name, made, marks, reference, keep)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bfloat16(name, checkpoint, reference):
    """Positions travel with features in their dtype: with all kept, not a bit may change.

    With fewer, a choice that no rounding of features sways shows that the rest is right.
    """
    path, marks = checkpoint(name)
    asked = [q.request(marks) for q in questions(marks)]
    grid = [q.request(marks, keep=0.25, method="grid") for q in questions(marks)]
    with engine(path, dtype="bfloat16") as llm:
        stock = ask(llm, asked)
    with engine(path, {"keep": 1.0}, dtype="bfloat16") as llm:
        whole, pruned = ask(llm, asked), ask(llm, grid)
    assert [replace(a, cached=0) for a in whole] == [replace(a, cached=0) for a in stock]
    for question, answer in zip(questions(marks), pruned, strict=True):
        wanted = reference(name)(question, otprune.GridPrune(0.25), CHECKPOINTS[name].positions)
        length, _, likely = wanted
        assert answer.prompt == length
        gaps = [abs(float(likely[0, t]) - x) for t, x in answer.likely[0].items()]
        assert max(gaps) < 0.5  # eight bits of mantissa, two layers of large weights


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"keep": 0.25}, {"pipeline_parallel_size": 2}, "pipeline parallel"),
        ({"keep": 0.25}, {"video_pruning_rate": 0.5}, "video pruning"),
        ({"keep": 7.5}, {}, "more than everything"),
        ({"keep": "auto"}, {}, "before any feature exists"),
        ({"keep": 0.25, "gamma": -1.0}, {}, "gamma=-1.0 is outside"),
        ({"keep": 0.25, "seed": 3}, {}, "it belongs to random"),
    ],
)
def test_engines_that_are_refused(settings, options, said, checkpoint):
    """By the configuration itself, before a weight is read."""
    path, _ = checkpoint("qwen2_5_vl")
    with pytest.raises(ValueError, match=said), engine(path, settings, **options):
        pytest.fail("an engine was built")


def test_requests_that_are_refused(checkpoint, reference):
    """The engine lives on; and one that was not asked to prune says how to."""
    path, marks = checkpoint("llava")
    with engine(path, {"keep": 0.25}) as llm:
        for asked, said in [
            ({"keep": 7.5}, "more than everything"),
            ({"keep": "auto"}, "before any feature exists"),
            ({"positions": "compact"}, "expected only keep, image_pruning_rate"),
            ({"rank": 0}, "rank is 0"),
            ({"method": "transport", "metric": "manhattan"}, "metric='manhattan'"),
            ({"encoder_keep": 0.5, "encoder_after": 2}, "reads what 2 of 3 layers give"),
            ({"encoder_keep": 0.5, "encoder_after": 3}, "the encoder has 3"),
        ]:
            with pytest.raises(otprune.OTPruneError, match=said):
                ask(llm, [QUESTIONS[0].request(marks, **asked)])
        answer = ask(llm, [QUESTIONS[0].request(marks)])[0]
    agree(answer, reference("llava")(QUESTIONS[0], otprune.OTPrune(0.25), "compact"))
    with (
        engine(path) as llm,
        pytest.raises(otprune.UnsupportedError, match="started without otprune"),
    ):
        ask(llm, [QUESTIONS[0].request(marks, keep=0.5)])


def test_frames_of_several_sizes_are_an_error(environment):
    from vllm.multimodal.processing.processor import PromptUpdateDetails

    from otprune.engines.vllm.processor import _shortened

    ids = [9, 9, 1, 9, 9, 9]
    update = SimpleNamespace(modality="video", content=PromptUpdateDetails.select_token_id(ids, 9))
    with pytest.raises(otprune.OTPruneError, match=r"one video are runs of \[2, 3\]"):
        _shortened(update, {}, engine_settings({"keep": 0.5}), None)


def test_another_model_is_served_unchanged(environment, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    from otprune_bench.served.model import byte_tokenizer

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
    assert private.changed_internals() == []


def test_what_moved_is_named(environment, monkeypatch):
    used = (("vllm.config", "NoSuchConfig", None), ("vllm", "LLM.generate", ("self", "shape")))
    monkeypatch.setattr(private, "USED", used)
    gone, other = private.changed_internals()
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
    assert "visual tokens are NOT pruned" in said
    assert said.index("NOT pruned") < said.index("'keep': 0.5}\n")
    assert "vLLM 0.99.0: otprune was tested with 0.32.x; install that, or set" in said
