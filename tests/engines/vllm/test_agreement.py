"""Engines and workers that do not prune as the one that asks them are refused at the start."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

import otprune
from otprune.engines.vllm.agreement import check_engine, check_workers, claim
from otprune.engines.vllm.settings import engine_settings

from .test_checks import QWEN, config

KEEP = {"keep": 0.1}


def worker(given, rank=0):
    """A worker whose model has these settings; None for one of vLLM's own classes."""
    model = object() if given is None else SimpleNamespace(otprune=engine_settings(given))
    return SimpleNamespace(rank=rank, get_model=lambda: model)


def asking(*workers):
    """As `collective_rpc` does."""
    return lambda function: [function(one) for one in workers]


def test_workers_that_agree():
    check_workers(config(settings=KEEP), asking(worker(KEEP), worker({"keep": 0.1}, 1)))


def test_a_worker_with_vllms_own_model():
    with pytest.raises(
        otprune.UnsupportedError, match=r"rank 1 on .* does not prune.*VLLM_PLUGINS"
    ):
        check_workers(config(settings=KEEP), asking(worker(KEEP), worker(None, 1)))


def test_a_worker_with_other_settings():
    said = r"rank 1 on .* has .*keep=0\.5.*, and this machine has .*keep=0\.1"
    with pytest.raises(otprune.UnsupportedError, match=said):
        check_workers(config(settings=KEEP), asking(worker(KEEP), worker({"keep": 0.5}, 1)))


def test_a_worker_without_otprune_and_one_that_failed_otherwise():
    def ask(function):
        raise RuntimeError("Worker failed with error 'No module named 'otprune''")

    with pytest.raises(otprune.UnsupportedError, match="every machine needs otprune 0"):
        check_workers(config(settings=KEEP), ask)

    def fails(function):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        check_workers(config(settings=KEEP), fails)


def test_an_engine_of_another_version():
    has = claim(engine_settings(KEEP)).replace("otprune 0", "otprune 9")
    with pytest.raises(otprune.UnsupportedError, match=r"rank 1 has otprune 9.*has otprune 0"):
        check_engine(config(settings=KEEP), "rank 1", has)
    with pytest.raises(otprune.UnsupportedError, match="rank 1 does not prune"):
        check_engine(config(settings=KEEP), "rank 1", None)
    check_engine(config(settings=KEEP), "rank 1", claim(engine_settings(KEEP)))


@pytest.mark.parametrize(
    "given",
    [
        config(),
        config("Gemma3ForConditionalGeneration", KEEP),
        config(QWEN, KEEP, multimodal_config=None),
        config(settings=KEEP, model_impl="transformers"),
        SimpleNamespace(model_config=None),
    ],
)
def test_where_nothing_is_pruned_nobody_is_asked(given):
    check_workers(given, pytest.fail)
    check_engine(given, "rank 1", None)


DEFAULTS = {"method": "otprune", "merge": False, "mass": "none", "rank": None}
DEFAULTS |= {"positions": "auto", "allow_mass": False, "untested_vllm": "refuse", "text": None}


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (KEEP, KEEP | DEFAULTS),
        (KEEP, {"image_pruning_rate": 0.9, "video_retention_ratio": 0.1}),
        (KEEP, KEEP | {"encoder_keep": 1.0}),
        (KEEP | {"encoder_keep": 0.5}, KEEP | {"encoder_keep": 0.5, "encoder_after": 0.6}),
        ({"keep": 0.1, "method": "grid"}, {"method": "grid", "keep": 0.1}),
        (KEEP | {"mass": "token"}, KEEP | {"mass": "token", "alpha": 1.0, "allow_mass": True}),
    ],
)
def test_settings_that_mean_the_same_agree(given, same):
    """Whatever is spelled out, and in whatever order."""
    check_workers(config(settings=given), asking(worker(same)))
    check_engine(config(settings=same), "rank 1", claim(engine_settings(given)))


@pytest.mark.parametrize(
    "more",
    [
        {"keep": 1},
        {"video_pruning_rate": 0.5},
        {"method": "transport"},
        {"gamma": 2.0},
        {"merge": True},
        {"mass": "total"},
        {"mass": "total", "alpha": 0.5},
        {"encoder_keep": 0.5},
        {"encoder_keep": 0.5, "encoder_after": 0.7},
        {"method": "transport", "question": 0.5},
        {"method": "transport", "question": 0.5, "text": "what?"},
        {"positions": "compact"},
        {"allow_mass": True},
        {"untested_vllm": "unpruned"},
    ],
    ids=str,
)
def test_every_setting_has_to_be_the_same(more):
    with pytest.raises(otprune.UnsupportedError, match="start all with the same settings"):
        check_workers(config(settings=KEEP), asking(worker(KEEP | more)))


@pytest.mark.vllm
def test_ranks_that_leave_the_plugin_out(checkpoint):
    path, _ = checkpoint("llava")
    run = subprocess.run(
        [sys.executable, "-m", "tests.engines.vllm.without_plugin", str(path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode != 0
    assert "STARTED" not in run.stdout
    assert "does not prune: every machine needs otprune" in run.stderr


@pytest.mark.vllm
def test_an_engine_says_what_it_does_and_a_front_end_reads_it(environment):
    """The message goes through vLLM's own encoding; the class is the one that vLLM sends."""
    from dataclasses import MISSING, fields

    from msgspec import msgpack
    from vllm.v1.engine import EngineCoreReadyResponse

    from otprune.engines.vllm import agreement

    some = {int: 1, bool: False}
    needed = [f for f in fields(EngineCoreReadyResponse) if f.default is MISSING]
    sent = EngineCoreReadyResponse(**{f.name: some.get(f.type, "some") for f in needed})
    engine = SimpleNamespace(vllm_config=config(settings=KEEP))
    tagged = msgpack.encode(agreement._engine(lambda self: sent)(engine))
    assert msgpack.decode(tagged, type=EngineCoreReadyResponse) == sent  # without otprune
    seen = []
    apply = agreement._front_end(lambda self, payload: seen.append(payload))
    apply(engine, tagged)
    with pytest.raises(otprune.UnsupportedError, match="data parallel rank 1 does not prune"):
        apply(engine, msgpack.encode(sent))
    apply(SimpleNamespace(vllm_config=config()), msgpack.encode(sent))
    assert seen == [tagged, msgpack.encode(sent)]
