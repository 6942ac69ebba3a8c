"""Mass in vLLM's attention: the answers of transformers with the same tokens and masses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import otprune

from .checkpoints import CHECKPOINTS
from .engines import Question, ask, engine, questions
from .test_families import LONG, agree, stage_of
from .test_hard_cases import agree_all
from .test_pressure import preemptions

pytestmark = pytest.mark.vllm

NAMES = ["llava", "qwen2_5_vl"]
TOKEN = {"mass": "token", "merge": True}
STAGE = {"encoder_keep": 0.6, "encoder_after": 0.34}
HEARD = {"method": "transport", "question": 0.9}
ASKED = [
    TOKEN,
    {"mass": "total"},
    {"mass": "token", "alpha": 0.5},
    {"mass": "none"},
    {"method": "recommended"},
    {"keep": 1.0},
    STAGE,
    {**HEARD, **STAGE},
]


def wanted_of(reference, question, asked, positions):
    """What transformers answers to a request of an engine of `{"keep": 0.25, **TOKEN}`."""
    keep = asked.get("keep", 0.25)
    if asked.get("method") == "recommended":
        preset = otprune.recommended(keep)
        return reference(question, preset["selector"], positions, True, mass="token")
    made = {"alpha": 1.0, **TOKEN, **asked}
    more = {"mass": made["mass"], "alpha": made["alpha"], "encoder": stage_of(asked)}
    selector = otprune.OTPrune(keep)
    if "question" in asked:
        selector = otprune.TransportPrune(keep, question=asked["question"])
    return reference(question, selector, positions, made["merge"], **more)


@pytest.fixture(scope="module", params=NAMES)
def family(request):
    return CHECKPOINTS[request.param]


@pytest.fixture(scope="module")
def weighing(family, checkpoint):
    """An engine whose requests have a mass if nothing else is asked."""
    with engine(checkpoint(family.name)[0], {"keep": 0.25, **TOKEN}) as llm:
        yield llm


def test_every_request_of_a_batch_has_its_own_masses(family, checkpoint, weighing, reference):
    """All at once, with several images and videos, with and without mass; then from full caches.

    Beside a mass there may be a selection inside the encoder, and a question that is heard.
    """
    _, marks = checkpoint(family.name)
    pairs = [(q, asked) for asked in ASKED for q in questions(marks)]
    requests = [q.request(marks, **asked) for q, asked in pairs]
    first, cached = ask(weighing, requests), ask(weighing, requests)
    assert any(answer.cached for answer in cached)
    moved = []
    for (question, asked), *answers in zip(pairs, first, cached, strict=True):
        wanted = wanted_of(reference(family.name), question, asked, family.positions)
        for answer in answers:
            agree(answer, wanted)
        if asked == TOKEN and question.images:
            plain = {**TOKEN, "mass": "none"}
            without = wanted_of(reference(family.name), question, plain, family.positions)
            moved.append(float((wanted[2] - without[2])[0].abs().max()))
    assert min(moved) > 0.1  # a thousand times what may differ


def test_a_second_question_about_a_cached_image(family, checkpoint, weighing, reference):
    _, marks = checkpoint(family.name)
    turns = [Question(f"{{}}{LONG}{end}?", (0,)) for end in ("one", "two, or three")]
    weighing.reset_prefix_cache()
    first, second = (ask(weighing, [q.request(marks)])[0] for q in turns)
    other = ask(weighing, [turns[1].request(marks, mass="total")])[0]
    assert (first.cached, other.cached) == (0, 0), "another mass is another image"
    assert second.cached >= first.prompt - len("one?") - 32
    for answer, turn, asked in [(first, 0, {}), (second, 1, {}), (other, 1, {"mass": "total"})]:
        agree(answer, wanted_of(reference(family.name), turns[turn], asked, family.positions))


@pytest.mark.parametrize("name", NAMES)
def test_chunks_inside_an_image_and_prompts_that_are_computed_again(name, checkpoint, reference):
    """Steps of 20 tokens; and a cache too small for all, so that requests are put off."""
    path, marks = checkpoint(name)
    asked = [q.request(marks) for q in questions(marks)]
    small = {"num_gpu_blocks_override": 18, "max_model_len": 512, "max_num_batched_tokens": 20}
    with engine(path, {"keep": 0.5, **TOKEN}, disable_log_stats=False, **small) as llm:
        short, cached = ask(llm, asked), ask(llm, asked)
        alone = [ask(llm, [request], new=60)[0] for request in asked]
        before = preemptions(llm)
        together = ask(llm, asked, new=60)
        assert preemptions(llm) > before
    assert any(answer.cached for answer in cached)
    for answers in (short, cached):
        agree_all(name, answers, marks, reference, 0.5, **TOKEN)
    assert [answer.ids for answer in together] == [answer.ids for answer in alone]


def half_precision_agrees(name, checkpoint, reference, **options):
    """A choice that rounding does not sway; without mass the answers are further away."""
    path, marks = checkpoint(name)
    positions = CHECKPOINTS[name].positions
    asked = [q for q in questions(marks) if q.images and not q.videos]
    settings = {"keep": 0.25, "mass": "total", "method": "grid"}
    with engine(path, settings, dtype="bfloat16", **options) as llm:
        answers = ask(llm, [q.request(marks) for q in asked])
    for question, answer in zip(asked, answers, strict=True):
        gaps = []
        for mass in ("total", "none"):
            _, _, likely = reference(name)(question, otprune.GridPrune(0.25), positions, mass=mass)
            gaps.append(max(abs(float(likely[0, t]) - x) for t, x in answer.likely[0].items()))
        assert gaps[0] < 0.5 < gaps[1]


def test_bfloat16(checkpoint, reference):
    half_precision_agrees("llava", checkpoint, reference)


def backend(name, sizes):
    return SimpleNamespace(get_name=lambda: name, supports_head_size=lambda size: size in sizes)


@pytest.mark.parametrize(
    ("found", "wide"),
    [
        (backend("CPU_ATTN", {128, 160}), 160),
        (backend("FLASH_ATTN", range(0, 257, 8)), 136),
        (backend("FLASHINFER", {128, 256}), "attention backend FLASHINFER"),
        (backend("CPU_ATTN", {64, 128}), "no attention backend has heads of more than 128"),
        (None, "more than 128 features .nothing fits"),
    ],
)
def test_the_least_size_of_a_head_that_attention_has(environment, monkeypatch, found, wide):
    from otprune.engines.vllm import mass

    def get_attn_backend(head_size, dtype, cache_dtype):
        if found is None:
            raise ValueError("nothing fits")
        return found

    monkeypatch.setattr(mass, "get_attn_backend", get_attn_backend)
    if isinstance(wide, int):
        assert mass._wider(128, torch.bfloat16, "auto") == wide
        return
    with pytest.raises(otprune.UnsupportedError, match=wide):
        mass._wider(128, torch.bfloat16, "auto")


def holder(name="LlamaAttention", **changed):
    """A module of some class, and an attention layer in it."""
    from vllm.model_executor.layers.attention import Attention
    from vllm.v1.attention.backend import AttentionType

    layer = object.__new__(Attention)
    torch.nn.Module.__init__(layer)
    known = {
        "head_size": 64,
        "head_size_v": 64,
        "impl": SimpleNamespace(scale=0.125),
        "dtype": torch.float32,
        "attn_type": AttentionType.DECODER,
        "sliding_window": None,
        "kv_sharing_target_layer_name": None,
        "has_sink": False,
        "kv_cache_dtype": "auto",
    }
    for key, value in {**known, **changed}.items():
        setattr(layer, key, value)
    return type(name, (), {"attn": layer, "dual_chunk_attention_config": None})()


@pytest.mark.parametrize(
    "strange",
    [
        {"name": "SomeAttention"},
        {"head_size": 128, "head_size_v": 128},
        {"head_size_v": 32},
        {"impl": SimpleNamespace(scale=1.0)},
        {"attn_type": "encoder_only"},
        {"sliding_window": 4096},
        {"kv_sharing_target_layer_name": "layers.0"},
        {"has_sink": True},
        {"kv_cache_dtype": "fp8"},
    ],
    ids=str,
)
def test_layers_that_would_lose_a_mass_are_refused(environment, strange):
    from otprune.engines.vllm.mass import _check_layers

    layers = {"a": holder(), "b": holder("Qwen2Attention")}
    _check_layers(None, layers, dict.fromkeys(layers))
    with pytest.raises(otprune.UnsupportedError, match=r"mass with .*b\): only full attention"):
        _check_layers(None, layers | {"b": holder(**strange)}, dict.fromkeys(layers))
    with pytest.raises(otprune.UnsupportedError, match="mamba is no attention layer"):
        _check_layers(None, layers, dict.fromkeys([*layers, "mamba"]))
