"""Installed and not asked for, otprune changes nothing: its classes beside vLLM's own.

Also with vLLM's own pruning of videos, and with the flag that vLLM's runner for GPUs sets and its
runner for CPUs forgets: whatever vLLM does there, it does with otprune in the environment too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from types import SimpleNamespace
from typing import Any

import pytest

from otprune.engines.vllm import private
from otprune.engines.vllm.families import FAMILIES

from .checkpoints import CHECKPOINTS
from .engines import Question, ask, engine, questions

pytestmark = pytest.mark.vllm

FLAG = "is_multimodal_pruning_enabled"
NAMES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
# vLLM 0.32.0 itself stops on a video that it prunes with nothing in front of it (Qwen3-VL), or with
# an image or video behind it (Qwen2.5-VL).
ASKED = [
    Question("hi {}what is it?", (0,)),
    Question("{} then {} and text", (1, 0)),
    Question("no image at all"),
    Question("hi, []what moves?", (), (0,)),
    Question("first {} then [] and more text", (1,), (1,)),
]


def both(architecture: str) -> tuple[type[Any], type[Any]]:
    """The class that otprune registers, and vLLM's own."""
    from otprune.engines.vllm.models import pruned

    family = FAMILIES[architecture]
    module = import_module(f"vllm.model_executor.models.{family.module}")
    return pruned(architecture), getattr(module, family.model)


@contextmanager
def without_otprune(architecture: str) -> Iterator[None]:
    """vLLM's own class under its architecture, as where otprune is not installed."""
    from vllm import ModelRegistry
    from vllm.model_executor.model_loader import utils
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    family = FAMILIES[architecture]
    utils._MODEL_ARCH_BY_HASH.clear()
    ModelRegistry.register_model(
        architecture, f"vllm.model_executor.models.{family.module}:{family.model}"
    )
    try:
        yield
    finally:
        ModelRegistry.register_model(architecture, f"otprune.engines.vllm.models:{architecture}")
        utils._MODEL_ARCH_BY_HASH.clear()


@pytest.fixture
def as_on_a_gpu(environment, monkeypatch):
    """The flag as vLLM's runner for GPUs sets it once a model is loaded; where that was True."""
    from vllm.model_executor.models.interfaces import supports_multimodal_pruning
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    load, seen = CPUModelRunner.load_model, []

    def load_model(self, *args, **kwargs):
        load(self, *args, **kwargs)
        config = self.model_config.multimodal_config
        enabled = supports_multimodal_pruning(self.get_model()) and getattr(config, FLAG)()
        setattr(self, FLAG, enabled)
        seen.append((type(self.get_model()), getattr(self, FLAG)))

    monkeypatch.setattr(CPUModelRunner, "load_model", load_model)
    return seen


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_an_engine_answers_as_without_otprune(name, checkpoint, as_on_a_gpu):
    """Bit by bit, with half of a video's tokens pruned by vLLM where it can."""
    path, marks = checkpoint(name)
    asked = [q.request(marks) for q in questions(marks, ASKED)]

    def answers():
        with engine(path, video_pruning_rate=0.5, max_num_batched_tokens=64) as llm:
            return ask(llm, asked)

    with without_otprune(NAMES[name]):
        wanted = answers()
    assert answers() == wanted
    ours, stock = both(NAMES[name])
    enabled = name in ("qwen2_5_vl", "qwen3_vl")
    assert as_on_a_gpu == [(stock, enabled), (ours, enabled)]


@pytest.mark.parametrize("architecture", FAMILIES)
def test_a_class_claims_what_vllms_own_does(architecture, environment):
    """Everything that vLLM asks a class or a model for, by whatever name."""
    from vllm.model_executor.models import interfaces, interfaces_base
    from vllm.model_executor.models.registry import _ModelInfo

    ours, stock = both(architecture)
    assert _ModelInfo.from_model_cls(ours) == _ModelInfo.from_model_cls(stock)
    asked = {
        name: question
        for module in (interfaces, interfaces_base)
        for name, question in vars(module).items()
        if name.startswith(("supports_", "is_", "has_", "requires_"))
        and list(signature(question).parameters) == ["model"]
    }
    assert "supports_multimodal_pruning" in asked
    for name, question in asked.items():
        for kind in (lambda x: x, object.__new__):
            assert bool(question(kind(ours))) == bool(question(kind(stock))), name


def test_an_engine_beside_one_that_prunes_keeps_its_own_flag(environment):
    """Both in one process: what makes the CPU's runner ask for positions is for one of them."""
    from vllm.config import MultiModalConfig
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    def runner(config):
        made = object.__new__(CPUModelRunner)
        made.model_config = SimpleNamespace(multimodal_config=config)
        setattr(made, FLAG, False)
        return made

    pruning, other = MultiModalConfig(), MultiModalConfig(video_pruning_rate=0.5)
    private.ask_for_positions(pruning)
    assert getattr(runner(pruning), FLAG)
    beside = runner(other)
    assert not getattr(beside, FLAG)  # as vLLM leaves it
    setattr(beside, FLAG, True)
    assert getattr(beside, FLAG)
