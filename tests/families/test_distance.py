"""The distance term in every family, compared with the formula written out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from otprune import TransportPrune, prune
from otprune.engines.transformers import Pruned
from otprune.engines.transformers.versions import ROWWISE, installed

from .base import Inputs
from .reference import reference_logits
from .test_calls import right_padded
from .test_mass import close, slowly, spread
from .test_matrix import BATCH, STEPS, answer, surviving, tiny
from .tiny import FAMILIES

SELECTOR = TransportPrune(0.3)
families = pytest.mark.parametrize("name", [name for name in FAMILIES if name != "paligemma"])


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def expected(
    model: PreTrainedModel,
    inputs: Inputs,
    items: list[Pruned],
    mass: str,
    alpha: float,
    positions: str,
    said: Tensor,
) -> list[Tensor]:
    """Logits of each sequence with mass and distance term in the mask."""
    numbers = [
        {
            "token": item.masses * item.before,
            "total": torch.full((item.after,), item.before / item.after),
            "none": torch.ones(item.after),
        }[mass]
        for item in items
    ]
    added = spread(inputs, items, [alpha * n.log() for n in numbers], text=0.0)
    pruned = [torch.full((x.after,), alpha * (x.after < x.before)) for x in items]
    factor = spread(inputs, items, pruned, text=0.0)
    keep = surviving(inputs, items)
    return reference_logits(model, inputs, keep, positions, said, added, factor)


def check(
    model: PreTrainedModel,
    inputs: Inputs,
    positions: str = "preserved",
    mass: str = "none",
    alpha: float = 1.0,
) -> None:
    """Compare every token with the reference: in the forward pass, and in each decoding step."""
    how: dict[str, Any] = {"positions": positions, "mass": mass, "alpha": alpha}
    with prune(model, SELECTOR, **how, distance=True) as run:
        sequences, steps, _ = answer(model, inputs)
        whole = model(**inputs).logits
        without_cache = model(**inputs, use_cache=False).logits
    said = sequences[:, inputs["input_ids"].shape[1] : -1]
    wanted = expected(model, inputs, run.last or [], mass, alpha, positions, said)
    for b, logits in enumerate(wanted):
        n = len(logits) - (STEPS - 1)
        close(whole[b, -n:], logits[:n])
        close(without_cache[b, -n:], logits[:n])
        close(torch.stack([step[b] for step in steps]), logits[n - 1 :])


@families
@pytest.mark.parametrize("attn", ["sdpa", slowly("eager")])
def test_it_is_the_formula_written_out(name: str, attn: str) -> None:
    family = FAMILIES[name]
    check(tiny(name, attn), family.inputs(BATCH, video=family.has_video))


@families
@pytest.mark.parametrize(
    ("mass", "alpha", "positions"),
    [("token", 1.0, "preserved"), slowly("total", 0.5, "compact"), slowly("none", 0.5, "compact")],
)
def test_with_mass_and_alpha(name: str, mass: str, alpha: float, positions: str) -> None:
    check(tiny(name), FAMILIES[name].inputs(BATCH), positions, mass, alpha)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_every_attention_function_gives_one_answer(name: str) -> None:
    inputs, found = FAMILIES[name].inputs(BATCH), []
    flex = ["flex_attention"] * (name == "llava")  # others refuse it, or torch does not compile it
    for attn in ("sdpa", "eager", *flex):
        with prune(tiny(name, attn), SELECTOR, mass="token", distance=True) as run:
            logits = tiny(name, attn)(**inputs).logits
        assert run.columns is not None
        seen = inputs["attention_mask"].gather(1, run.columns.clamp(min=0)).bool()
        found.append(logits[seen & (run.columns >= 0)])
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=2e-5)


@families
@pytest.mark.parametrize("images", [(1,), (2,)], ids=["one", "two"])
def test_a_single_row_without_padding(name: str, images: tuple[int, ...]) -> None:
    check(tiny(name), FAMILIES[name].inputs(images))


@families
def test_every_way_of_caching_gives_one_answer(name: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs(BATCH)
    ways: list[dict[str, object]] = [{"cache_implementation": "static"}, {"use_cache": False}]
    if installed() >= ROWWISE:
        ways.append({"prefill_chunk_size": 7})
    with prune(model, SELECTOR, mass="token", distance=True):
        wanted = model.generate(**inputs, max_new_tokens=4, do_sample=False)
        for way in ways:
            got = model.generate(**inputs, max_new_tokens=4, do_sample=False, **way)
            assert torch.equal(got, wanted), way


@pytest.mark.skipif(installed() < ROWWISE, reason="transformers mixes up several images of a row")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_beams(name: str) -> None:
    model, inputs = tiny(name), FAMILIES[name].inputs(BATCH)
    with prune(model, SELECTOR, "preserved", distance=True) as run:
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            num_beams=3,
            num_return_sequences=2,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
    ids = out.sequences[:, inputs["input_ids"].shape[1] :]
    for beam in range(2):
        said = ids[beam::2]
        wanted = expected(model, inputs, run.last or [], "none", 1.0, "preserved", said[:, :-1])
        for b, logits in enumerate(wanted):
            score = logits[-STEPS:].log_softmax(dim=-1).gather(1, said[b][:, None]).sum()
            close(out.sequences_scores[2 * b + beam], score)


@families
def test_padding_may_be_on_either_side(name: str) -> None:
    model, left = tiny(name), FAMILIES[name].inputs(BATCH)
    found = []
    with prune(model, SELECTOR, distance=True) as run:
        for inputs in (left, right_padded(left)):
            logits, columns = model(**inputs).logits, run.columns
            assert columns is not None
            seen = inputs["attention_mask"].gather(1, columns.clamp(min=0)).bool() & (columns >= 0)
            found.append([row[at] for row, at in zip(logits, seen, strict=True)])
    for wanted, moved in zip(*found, strict=True):
        close(moved, wanted)


@families
@pytest.mark.parametrize("attn", ["sdpa", slowly("eager")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, slowly(torch.float32)], ids=str)
def test_keeping_everything_changes_no_bit(name: str, attn: str, dtype: torch.dtype) -> None:
    model = FAMILIES[name].model(attn).to(dtype)
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in FAMILIES[name].inputs(BATCH).items()
    }
    plain = model(**inputs).logits
    with prune(model, TransportPrune(keep=1.0), mass="token", distance=True):
        assert torch.equal(model(**inputs).logits, plain)
    with prune(model, SELECTOR, "preserved"):
        without = model(**inputs).logits
    with prune(model, SELECTOR, "preserved", distance=True):
        logits = model(**inputs).logits
    assert bool(logits.isfinite().all())
    assert not torch.equal(logits, without)


def test_scaled_rotary_embeddings() -> None:
    """The frequencies are the model's; YaRN's factor on cosines is no part of an angle."""
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs(BATCH)
    decoder = model.get_decoder()

    for rope in (
        {"rope_type": "linear", "factor": 3.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    ):
        decoder.config.rope_parameters = {"rope_theta": 10000.0, **rope}
        decoder.rotary_emb = LlamaRotaryEmbedding(decoder.config)
        check(model, inputs)
    assert decoder.rotary_emb.attention_scaling > 1.1
