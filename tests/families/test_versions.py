"""Old and untested releases of transformers: calls that they would get wrong are refused."""

from __future__ import annotations

import pytest
import torch

from otprune import (
    DivPrune,
    OTPruneError,
    Settings,
    UnsupportedError,
    enable,
    prune,
    prune_inputs,
)
from otprune.engines.transformers import support, versions
from otprune.engines.transformers.versions import installed

from .base import Inputs
from .tiny import FAMILIES

ONE = {"max_new_tokens": 1, "do_sample": False}


def ask(name: str, inputs: Inputs, **settings: int) -> torch.Tensor:
    model = FAMILIES[name].model()
    with prune(model, DivPrune(keep=0.5)):
        return model.generate(**inputs, **ONE, **settings)


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions.transformers, "__version__", "5.22.2")


@pytest.mark.parametrize("version", ["5.23.0", "5.18.0.dev0", "5.30rc1"])
def test_version_parsing(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(versions.transformers, "__version__", version)
    assert installed() == tuple(int(n) for n in version.replace("rc1", "").split(".")[:2])


def test_a_release_before_the_oldest_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FAMILIES["llava"].model()
    assert support(model)[0]
    monkeypatch.setattr(versions.transformers, "__version__", "5.17.0")
    able, why = support(model)
    assert not able
    assert "5.17.0" in why
    with pytest.raises(UnsupportedError, match=r"transformers 5\.17\.0 is too old"):
        prune(model, DivPrune(keep=0.5)).__enter__()


@torch.no_grad()
def test_a_release_that_was_not_tested_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["llava"]
    model, inputs = family.model(), family.inputs((1,))
    made = Settings(DivPrune(keep=0.5))
    with prune(model, made):
        expected = model(**inputs).logits
    monkeypatch.setattr(versions.transformers, "__version__", "5.25.0")
    why = r"5\.25\.0 is newer .*5\.18 to 5\.24.*untested_transformers='prune'"
    for way in (
        lambda: prune(model, DivPrune(keep=0.5)),
        lambda: enable(model, DivPrune(keep=0.5)),
        lambda: prune_inputs(model, inputs, DivPrune(keep=0.5)),
        lambda: prune(model, made).__enter__() and model(**inputs),
    ):
        with pytest.raises(UnsupportedError, match=why):
            way()
    with prune(model, DivPrune(keep=0.5), untested_transformers="prune"):
        assert torch.equal(model(**inputs).logits, expected)
    prune_inputs(model, inputs, DivPrune(keep=0.5), untested_transformers="prune")
    with pytest.raises(OTPruneError, match="untested_transformers='yes'"):
        Settings(DivPrune(keep=0.5), untested_transformers="yes")  # type: ignore[arg-type]


@pytest.mark.usefixtures("old")
def test_chunked_prefill_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"prefill_chunk_size.*5\.22\.2"):
        ask("llava", FAMILIES["llava"].inputs((1,)), prefill_chunk_size=7)


@pytest.mark.usefixtures("old")
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
@pytest.mark.parametrize("setting", ["num_beams", "num_return_sequences"])
def test_several_images_are_refused_with_several_sequences_in_old_releases(
    name: str, setting: str
) -> None:
    several = {setting: 2} | ({"num_beams": 2} if setting == "num_return_sequences" else {})
    with pytest.raises(UnsupportedError, match=r"several images in a prompt.*5\.22\.2"):
        ask(name, FAMILIES[name].inputs((1, 2, 0)), **several)
    assert len(ask(name, FAMILIES[name].inputs((1, 2, 0)))) == 3


@pytest.mark.usefixtures("old")
def test_one_image_a_sequence_works_in_every_release() -> None:
    ids = ask("llava", FAMILIES["llava"].inputs((1, 0)), num_beams=2)
    assert len(ids) == 2


@pytest.mark.usefixtures("old")
def test_an_image_and_a_video_in_a_sequence_work_in_every_release() -> None:
    ids = ask("qwen2_vl", FAMILIES["qwen2_vl"].inputs((1, 0), video=True), num_beams=2)
    assert len(ids) == 2
