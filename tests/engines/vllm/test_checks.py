"""What a whole engine is refused before anything is loaded, on a configuration made by hand."""

import logging
from types import SimpleNamespace

import pytest

import otprune
from otprune.engines.vllm import checks, plugin, private
from otprune.engines.vllm.settings import engine_settings

QWEN, LLAVA = "Qwen2_5_VLForConditionalGeneration", "LlavaForConditionalGeneration"


def config(architecture=QWEN, settings=None, pp=1, pruning=None, **others):
    """As much of a VllmConfig as is looked at."""
    mm = SimpleNamespace(
        mm_processor_kwargs=others.pop("mm_processor_kwargs", None),
        get_video_pruning_spec=lambda: pruning,
        mm_encoder_only=others.pop("mm_encoder_only", False),
    )
    window, prompts = others.pop("window", None), others.pop("prompts", False)
    model = SimpleNamespace(
        hf_config=SimpleNamespace(**({} if settings is None else {"otprune": settings})),
        architectures=[architecture],
        multimodal_config=others.pop("multimodal_config", mm),
        model_impl=others.pop("model_impl", "auto"),
        hf_text_config=SimpleNamespace(model_type=others.pop("language", "llama")),
        get_sliding_window=lambda: window,
        enable_prompt_embeds=prompts,
    )
    parallel = {
        "pipeline_parallel_size": pp,
        "prefill_context_parallel_size": 1,
        "decode_context_parallel_size": 1,
        "use_ubatching": False,
        **others.pop("parallel", {}),
    }
    return SimpleNamespace(
        model_config=model,
        parallel_config=SimpleNamespace(**parallel),
        cache_config=SimpleNamespace(cache_dtype=others.pop("cache", "auto")),
        kv_transfer_config=others.pop("transfer", None),
        speculative_config=others.pop("speculative", None),
        lora_config=others.pop("lora", None),
    )


@pytest.fixture(autouse=True)
def said(caplog, monkeypatch):
    monkeypatch.setattr(checks, "open_folder", lambda mm: None)  # on disk till the process exits
    checks._logged.clear()
    caplog.set_level(logging.INFO, logger="vllm.otprune")
    return caplog


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            config(settings={"keep": 0.1, "method": "cdpruner"}, mm_encoder_only=True),
            "hears the question, and --mm-encoder-only",
        ),
        (config(settings={"keep": 0.1}, pp=2), "pipeline parallel"),
        (config(settings={"keep": 0.1}, speculative=object()), "speculative decoding"),
        (config(settings={"keep": 0.1}, prompts=True), "--enable-prompt-embeds"),
        (config(settings={"keep": 0.1}, pruning=("evs", 0.5)), "vLLM's own video pruning"),
        (config(LLAVA, {"keep": 0.1}, pruning=("vidcom2", 0.5)), "vLLM's own video pruning"),
        (config(LLAVA, {"keep": 0.1, "positions": "preserved"}), 'positions="preserved"'),
        (
            config(settings={"keep": 1.0}, lora=SimpleNamespace(enable_tower_connector_lora=True)),
            "LoRA in the vision tower",
        ),
        (config(mm_processor_kwargs={"otprune": {"keep": 0.1}}), "use --hf-overrides"),
        (config(settings={"keep": "auto"}), "before any feature exists"),
        (
            config(settings={"keep": 0.1, "method": "recommended", "allow_mass": True}, pp=2),
            "pipeline parallel",
        ),
    ],
)
def test_refused(given, said):
    with pytest.raises(otprune.UnsupportedError, match=said):
        checks.check(given)


@pytest.mark.parametrize(
    "given",
    [
        config(
            settings={"keep": 0.1, "positions": "compact"},
            pp=2,
            speculative=object(),
            prompts=True,
        ),
        config(LLAVA, {"keep": 0.1}, pp=2, speculative=object()),
        config(settings={"keep": 0.1}, lora=SimpleNamespace()),
        config(pp=2, pruning=("evs", 0.5)),
        SimpleNamespace(model_config=None),
    ],
)
def test_allowed(given):
    checks.check(given)


def test_what_is_done_is_said_once(said):
    for _ in range(3):
        checks.check(config(settings={"keep": 0.1}))
    (line,) = said.messages
    assert "visual tokens of Qwen2_5_VL" in line
    assert "keep=0.1" in line
    assert "positions=preserved" in line


def test_settings_are_said_and_what_recommended_leaves_out(said):
    checks.check(config(settings={"keep": 8, "gamma": 0.01, "rank": 64}))
    (line,) = said.messages
    assert "keep=8, method=otprune, gamma=0.01, rank=64, backend=torch, merge=False, pos" in line
    said.clear()
    for _ in range(2):
        checks.check(config(settings={"keep": 0.1, "method": "recommended"}))
    line, note = said.messages
    assert "method=simplex, damping=2.0, merge=True, mass=token, alpha=1.0" in line
    assert "no distance term" in note


def test_a_method_that_knows_less_than_in_transformers_is_said(said):
    for method in ("mmtok", "cdpruner"):
        checks.check(config(settings={"keep": 0.1, "method": method}))
    of_mmtok, note, of_cdpruner = said.messages
    assert "method=mmtok" in of_mmtok
    assert note == (
        "otprune: mmtok goes without encoded here, which transformers knows of the tokens: it "
        "keeps others than there"
    )
    assert "method=cdpruner" in of_cdpruner


OBSTACLES = [
    ({"language": "deepseek_v3"}, "a language model of type deepseek_v3"),
    ({"window": 4096}, "a sliding window"),
    ({"cache": "fp8"}, "--kv-cache-dtype fp8"),
    ({"pp": 2}, "pipeline parallel"),
    ({"parallel": {"prefill_context_parallel_size": 2}}, "context parallel"),
    ({"parallel": {"decode_context_parallel_size": 2}}, "context parallel"),
    ({"parallel": {"use_ubatching": True}}, "microbatches"),
    ({"speculative": object()}, "speculative decoding"),
    ({"transfer": object()}, "a KV connector"),
    ({"prompts": True}, "--enable-prompt-embeds"),
    ({"mm_encoder_only": True}, "--mm-encoder-only"),
]


@pytest.mark.parametrize(("options", "reason"), OBSTACLES)
def test_mass_is_refused_where_it_would_be_wrong_and_recommended_goes_without(
    options, reason, said
):
    for asked in ({"mass": "token"}, {"mass": "total", "merge": True}, {"allow_mass": True}):
        with pytest.raises(otprune.UnsupportedError, match=f"mass with {reason}"):
            checks.check(config(LLAVA, {"keep": 0.1, **asked}, **options))
        checks.check(config(settings={"keep": 0.1, **asked}))
    said.clear()
    checks._logged.clear()
    without = config(LLAVA, {"keep": 0.1, "method": "recommended"}, **options)
    for _ in range(2):
        checks.check(without)
    line, note, _ = said.messages
    assert "method=simplex, damping=2.0, merge=True, positions" in line
    assert f"goes without mass here: {reason}" in note
    settings = engine_settings(without.model_config.hf_config.otprune)
    assert (settings.mass, settings.weighs) == ("none", False)


@pytest.mark.parametrize(
    "given",
    [
        config("Gemma3ForConditionalGeneration", {"keep": 0.1}),
        config("LlamaForCausalLM", {"keep": 0.1}, multimodal_config=None),
        config(settings={"keep": 0.1}, model_impl="transformers"),
    ],
)
def test_another_model_is_served_unchanged_and_that_is_said_once(given, said):
    for _ in range(3):
        checks.check(given)
    (line,) = said.messages
    assert "served unchanged" in line


def test_an_untested_vllm_is_refused_or_serves_unpruned(said):
    checks.check_untested(config(), "vLLM 9")
    assert not said.messages
    with pytest.raises(otprune.UnsupportedError, match=r'vLLM 9.*"untested_vllm": "unpruned"'):
        checks.check_untested(config(settings={"keep": 0.1}), "vLLM 9")
    for _ in range(3):
        checks.check_untested(config(settings={"keep": 0.1, "untested_vllm": "unpruned"}), "vLLM 9")
    (record,) = said.records
    assert record.levelno == logging.WARNING
    assert "NOT pruned" in record.message


@pytest.mark.parametrize(
    ("version", "tested", "compared"),
    [
        ("0.32.0", True, False),
        ("0.32.1+cpu", True, False),
        ("0.33.0", False, True),
        ("0.33.1rc2", False, True),
        ("0.34.0", False, False),
        ("0.31.0", False, False),
        ("0.3.2", False, False),
        ("dev", False, False),
    ],
)
def test_versions(version, tested, compared):
    assert (private.tested(version), private.compared(version)) == (tested, compared)


def made(given, version, guard=lambda: None):
    """What becomes of a configuration under a version of vLLM: a class that checks as it does."""

    class Config:
        def __init__(self):
            vars(self).update(vars(given))
            self.__post_init__()

        def __post_init__(self):
            self.checked = True

    for _ in range(2):  # vLLM may call a plugin twice
        plugin._check_configurations(Config, version, guard)
    return [Config() for _ in range(3)]


def test_a_release_that_was_only_compared_prunes_and_warns_once(said):
    for engine in made(config(settings={"keep": 0.1}), "0.33.0"):
        assert engine.checked
    line, warning = said.records
    assert "are pruned" in line.message
    assert warning.levelno == logging.WARNING
    assert "vLLM 0.33.0" in warning.message
    assert "nothing was run" in warning.message


@pytest.mark.parametrize(
    "given", [config(), config("Gemma3ForConditionalGeneration", {"keep": 0.1})]
)
def test_it_does_not_warn_where_nothing_is_pruned(given, said):
    made(given, "0.33.0")
    assert not [x for x in said.records if x.levelno == logging.WARNING]


def test_the_tested_release_does_not_warn_and_others_are_refused(said):
    made(config(settings={"keep": 0.1}), "0.32.0")
    assert [x.levelno for x in said.records] == [logging.INFO]
    with pytest.raises(otprune.UnsupportedError, match=r"vLLM 0.34.0: .* 0.32.x; install that"):
        made(config(settings={"keep": 0.1}), "0.34.0")
