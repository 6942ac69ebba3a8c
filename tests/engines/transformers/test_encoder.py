"""Pruning inside the encoder and in the prompt together, through `otprune.prune`."""

import copy

import pytest
import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, ViTConfig

import otprune
from otprune import Cues, DPPPrune, EncoderStage, OTPruneError, TransportPrune, UnsupportedError
from otprune.engines.transformers.selection import choose
from otprune.measures.cells import Cells
from tests.families.base import TEXT
from tests.families.tiny import FAMILIES

STAGE = EncoderStage(keep=0.5, after=1)
# Where each token of the encoder's output, or each block of them, becomes one token of the prompt.
DIRECT = [
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "idefics3",
    "smolvlm",
    "gemma3",
    "paligemma",
    "mistral3",
]
# The others add rows between, or read features in front of the last layer.


def features(model, inputs, **settings):
    with otprune.prune(model, DPPPrune(1.0), **settings) as run, torch.no_grad():
        model(**inputs)
    return [image.features for image in run.last], run


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, build):
    model, family = build(name), FAMILIES[name]
    inputs = family.inputs((1, 2, 0), **({"video": True} if family.has_video else {}))
    plain, _ = features(model, inputs)
    staged, run = features(model, inputs, encoder=STAGE)
    assert [x.shape for x in staged] == [x.shape for x in plain]
    assert run.encoder
    with otprune.prune(model, DPPPrune(0.25), mass="token", merge=True, encoder=STAGE) as run:
        out = model.generate(**inputs, max_new_tokens=3)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3
    for image in run.last:
        assert image.after <= otprune.count(0.25, image.before)
        assert float(image.masses.sum()) == pytest.approx(1)
    assert all(len(cells.kept) < len(cells.cell) for call in run.encoder for cells in call.cells)


@pytest.mark.parametrize("name", DIRECT)
def test_the_prompt_keeps_some_of_what_the_encoder_kept(name, build):
    model, family = build(name), FAMILIES[name]
    inputs = family.inputs((1, 2))
    with otprune.prune(model, TransportPrune(0.2), encoder=STAGE) as run, torch.no_grad():
        model(**inputs)
    sets = [cells for call in run.encoder for cells in call.cells]
    for image in run.last:
        parts = []
        while sum(len(cells.cell) for cells in parts) < image.before:
            parts.append(sets.pop(0))
        cells = Cells.joined(parts)
        assert set(image.indices.tolist()) <= set(cells.kept.tolist())
        copies = image.features[cells.representative]
        assert torch.allclose(copies, image.features, atol=1e-5)
        # The masses are those of all tokens, copies included.
        near = TransportPrune(len(image.indices)).reduce(image.features)
        assert torch.allclose(image.masses.sort().values, near.masses.sort().values)
        assert image.masses.min() >= 1 / image.before - 1e-6
    assert not sets


@pytest.mark.parametrize("name", ["llava_next", "llava_onevision"])
def test_tiles_that_are_packed_with_rows_between(name, monkeypatch):
    model, inputs = FAMILIES[name].model(), FAMILIES[name].inputs((2,))
    monkeypatch.setattr(model.config, "vision_feature_layer", -1)
    every, run = features(model, inputs, encoder=STAGE)
    (call,) = run.encoder
    with otprune.prune(model, DPPPrune(0.9), encoder=STAGE) as run, torch.no_grad():
        model(**inputs)
    first = 0  # tile, of which each image begins with the overview
    for image, tokens, origin in zip(run.last, every, call.origins, strict=True):
        overview, m = call.cells[first], len(call.cells[first].cell)
        assert torch.equal(origin[:m], first * m + torch.arange(m))
        kept = image.indices
        assert torch.equal(kept[kept < m], overview.kept)
        # 90% is more than the encoder kept, so every token stands for its exact copies alone.
        assert len(torch.unique(tokens, dim=0)) <= len(kept) < 0.9 * len(tokens)
        added = (origin < 0).nonzero()[:, 0]
        assert len(added) > 0
        assert set(added.tolist()) <= set(kept.tolist())
        first += 1 + (int(origin.max()) - first * m) // m
    assert not [x for x in model.modules() if "pack_image_features" in vars(x)]


def test_a_budget_in_the_encoder_is_one_tiles(build):
    model, inputs = build("llava_next"), FAMILIES["llava_next"].inputs((2,))
    _, run = features(model, inputs, encoder=EncoderStage(keep=3, after=1))
    (call,) = run.encoder
    assert len(call.cells) > 2  # the tiles that are not padding
    assert {(len(cells.kept), len(cells.cell)) for cells in call.cells} == {(3, 16)}


def test_a_budget_in_the_encoder_is_one_frames(build):
    model = build("qwen2_vl")
    inputs = FAMILIES["qwen2_vl"].inputs((0,), video=True)
    _, run = features(model, inputs, encoder=EncoderStage(keep=2, after=1))
    assert [(len(x.kept), len(x.cell)) for x in run.encoder[0].cells] == [(2, 6)] * 3


@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"mistral3"}))  # its images differ by batch
def test_an_image_is_the_same_in_any_batch(name, build):
    model, family = build(name), FAMILIES[name]
    inputs = family.inputs((1, 2))
    together, _ = features(model, inputs, encoder=STAGE)
    again, _ = features(model, inputs, encoder=STAGE)
    assert all(map(torch.equal, together, again))
    alone, _ = features(model, family.inputs((1,)), encoder=STAGE)
    assert torch.allclose(alone[0], together[0], atol=1e-4 * float(alone[0].abs().max()))


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_everything_is_bit_identical(name, build):
    model, family = build(name), FAMILIES[name]
    inputs = family.inputs((1, 2, 0))
    with torch.no_grad():
        plain = model(**inputs).logits
        with otprune.prune(model, DPPPrune(1.0), encoder=EncoderStage(keep=1.0)):
            assert torch.equal(model(**inputs).logits, plain)
        with otprune.prune(model, DPPPrune(0.5)):
            off = model(**inputs).logits
        with otprune.prune(model, DPPPrune(0.5), encoder=EncoderStage(keep=1.0)):
            assert torch.equal(model(**inputs).logits, off)
    assert not [x for x in model.modules() if "forward" in vars(x)]


def test_features_read_in_front_of_the_selection_do_not_change(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1, 1))  # reads hidden state -2 of 2
    plain, _ = features(model, inputs)
    staged, _ = features(model, inputs, encoder=EncoderStage(keep=0.3, after=1))
    assert all(map(torch.equal, staged, plain))


def test_features_of_several_layers(build):
    """The model names these layers in the call, and the encoder hands that on to its layers."""
    config = copy.deepcopy(build("llava").config)
    config.vision_feature_layer = [-1, -2]  # behind the selection, and in front of it
    torch.manual_seed(0)
    model, inputs = LlavaForConditionalGeneration(config).eval(), FAMILIES["llava"].inputs((1, 1))
    seen = []
    model.model.multi_modal_projector.register_forward_pre_hook(
        lambda _, given: seen.append(given[0])
    )
    features(model, inputs)
    features(model, inputs, encoder=STAGE)
    (plain_last, plain_inner), (last, inner) = (x.chunk(2, dim=-1) for x in seen)
    assert torch.equal(inner, plain_inner)
    assert last.shape == plain_last.shape
    assert not torch.equal(last, plain_last)


def test_prune_inputs_enable_and_single_calls_agree(build):
    model, inputs = build("gemma3"), FAMILIES["gemma3"].inputs((1, 1))
    settings = otprune.Settings(DPPPrune(0.25), encoder=STAGE)
    with torch.no_grad():
        with otprune.prune(model, settings):
            right = model(**inputs).logits
        made = otprune.prune_inputs(model, inputs, DPPPrune(0.25), encoder=STAGE)
        assert torch.allclose(model(**made).logits[:, -1], right[:, -1], atol=1e-5)
        run = otprune.enable(model, settings)
        assert torch.equal(model(**inputs).logits, right)
        assert len(run.encoder) == 1
        otprune.disable(model)
        otprune.enable(model)
        assert torch.equal(model(**inputs, otprune=settings).logits, right)
        otprune.disable(model)
        plain = model(**inputs).logits
    assert plain.shape != right.shape


@pytest.mark.parametrize("encoder", [None, STAGE])
def test_another_default_dtype(encoder, build):
    model, inputs = build("gemma3"), FAMILIES["gemma3"].inputs((1, 1))
    settings = otprune.Settings(
        TransportPrune(0.25), merge=True, mass="token", encoder=encoder, distance=True
    )
    with torch.no_grad(), otprune.prune(model, settings):
        right = model(**inputs).logits
        torch.set_default_dtype(torch.float64)
        try:
            found = model(**inputs).logits
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(found, right)


def test_gradients_reach_the_encoder(build):
    model, inputs = FAMILIES["paligemma"].model(), FAMILIES["paligemma"].inputs((1, 1))
    with otprune.prune(model, DPPPrune(0.25), mass="token", encoder=STAGE):
        model(**inputs).logits[:, -1].square().sum().backward()
    for layer in model.model.vision_tower.encoder.layers:
        assert float(layer.mlp.fc1.weight.grad.abs().max()) > 0


def test_adapters_on_the_encoder():
    peft = pytest.importorskip("peft")
    model, inputs = FAMILIES["gemma3"].model(), FAMILIES["gemma3"].inputs((1, 1))
    right, _ = features(model, inputs, encoder=STAGE)
    config = peft.LoraConfig(
        target_modules=r".*vision_tower.*(q_proj|fc1)", init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, config)
    base = adapted.get_base_model()
    changed, run = features(base, inputs, encoder=STAGE)
    assert run.encoder
    assert not torch.allclose(changed[0], right[0], atol=1e-3)
    with adapted.disable_adapter():
        same, _ = features(base, inputs, encoder=STAGE)
    assert torch.allclose(same[0], right[0], atol=1e-5)


def test_the_report_says_what_the_encoder_kept(build):
    model, inputs = build("internvl"), FAMILIES["internvl"].inputs((1,))
    _, run = features(model, inputs, encoder=STAGE)
    (call,) = run.encoder
    assert (call.layer, call.layers) == (1, 2)
    assert call.seconds > 0
    with torch.no_grad(), otprune.prune(model, DPPPrune(0.5)) as run:
        model(**inputs)
    assert run.encoder == []


def test_refusals(build):
    model, inputs = build("gemma3"), FAMILIES["gemma3"].inputs((1,))
    encoded = otprune.prune_inputs(model, inputs, DPPPrune(1.0))
    encoded = {**encoded, "mm_encoder_outputs": dict(encoded["mm_encoder_outputs"])}
    with pytest.raises(UnsupportedError, match="holds encoded images"):
        otprune.prune_inputs(model, encoded, DPPPrune(0.5), encoder=STAGE)
    with pytest.raises(OTPruneError, match=r"encoder=0.35: expected otprune.EncoderStage"):
        otprune.prune(model, DPPPrune(0.5), encoder=0.35)
    with pytest.raises(OTPruneError, match="the encoder has 2"):
        otprune.prune(model, DPPPrune(0.5), encoder=EncoderStage(keep=0.5, after=2))
    vit = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    other = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vit, text_config={**TEXT, "model_type": "llama"})
    )
    with pytest.raises(UnsupportedError, match=r"LlavaForConditionalGeneration.*ViTModel"):
        otprune.prune(other, DPPPrune(0.5), encoder=STAGE)


# -- the selection among what an encoder kept ----------------------------------------------------


@pytest.fixture
def copies():
    """Tokens of which 12 of 40 differ, and their cells."""
    tokens = torch.randn(40, 8, generator=torch.Generator().manual_seed(2))
    (cells,) = DPPPrune(12).cells_each([tokens])
    return cells.back(tokens[cells.kept]), cells


def test_a_rule_covers_images_whose_plan_is_not_known(copies):
    tokens, cells = copies
    made = choose(
        TransportPrune(otprune.Budget(15)),
        [tokens, tokens.flip(0)],
        [0, 0],
        False,
        None,
        [cells, None],
    )
    assert sum(len(one.made.indices) for one in made) == 15


def test_masses_of_an_image_kept_whole_are_the_weights(copies):
    tokens, cells = copies
    weights = torch.arange(1, 41).double() / 20.5
    for plan in (None, cells):
        (one,) = choose(TransportPrune(1.0), [tokens], [0], False, [Cues(weights=weights)], [plan])
        assert torch.allclose(one.made.masses, weights.float() / 40)
