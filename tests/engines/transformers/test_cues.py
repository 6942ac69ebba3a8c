"""Cues of the vision encoder reach methods, each at its token.

Which tokens of the encoder a token of the prompt shows is found independently, by gradients.
"""

import copy
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from transformers import AttentionInterface, LlavaConfig, LlavaForConditionalGeneration

import otprune
from otprune import EncoderStage, OTPruneError, UnsupportedError
from otprune.engines.transformers import features
from otprune.engines.transformers.positions import full_positions
from otprune.engines.transformers.sources import SEEN
from otprune.engines.transformers.towers import layers_of, tower_of
from tests.families.base import IMAGE, TEXT, images_in, prompts
from tests.families.tiny import FAMILIES

WITH_VIDEO = {name for name, x in FAMILIES.items() if x.has_video}


SPECIAL = {
    "CLIPVisionModel": 1,
    "Dinov2Model": 1,
    "Dinov2WithRegistersModel": 4,
    "InternVLVisionModel": 1,
}


@dataclass(frozen=True)
class Salient(otprune.Selector):
    """Keeps the tokens that get the most attention in the encoder."""

    needs = frozenset({"saliency"})

    def pick(self, tokens, k, cues):
        return cues.saliency.topk(k).indices


@dataclass(frozen=True)
class Curious(otprune.Selector):
    """Keeps the first tokens, and writes down what it gets."""

    uses = SEEN

    def pick(self, tokens, k, cues):
        GOT.append((tokens, cues))
        return torch.arange(k, device=tokens.device).expand(len(tokens), k)


GOT = []


def inputs_of(name, images=(1, 2, 0)):
    return FAMILIES[name].inputs(images, **({"video": True} if name in WITH_VIDEO else {}))


def state_of(model, out):
    """The encoder's output that the projector gets."""
    layer = feature_layer_of(model)
    if layer is None or model.config.model_type == "internvl":
        return out.last_hidden_state
    return out.hidden_states[layer]


def feature_layer_of(model):
    layer = getattr(model.config, "vision_feature_layer", None)
    if layer is None or isinstance(layer, int):
        return layer
    number = model.config.vision_config.num_hidden_layers
    return max(layer, key=lambda i: i % (number + 1))


def expected(model, inputs, monkeypatch):
    """For each image, in prompt order: saliency, features and keys of its tokens, by hand.

    The features of each token of the prompt are differentiated by the encoder's output: tokens of
    the encoder with a gradient are what it shows. Maps are those of an eager run.
    """
    tower, row = tower_of(model)
    module, found, outs = sys.modules[type(tower).__module__], [], []
    eager = module.eager_attention_forward

    def recording(layer, query, key, *args, **kwargs):
        out, weights = eager(layer, query, key, *args, **kwargs)
        found.append((layer, weights, key))
        return out, weights

    def clipped(module, args, out):
        outs.append(out)

    layers = layers_of(tower, row)
    states = range(len(layers) + 1)  # the first is what enters the first layer
    depth = states[-1 if feature_layer_of(model) is None else feature_layer_of(model)] - 1
    special = SPECIAL.get(type(tower).__name__, 0)
    inside = {id(x) for x in layers[depth].modules()}
    handle = tower.register_forward_hook(clipped)
    made = []
    with monkeypatch.context() as patch:
        patch.setattr(module, "eager_attention_forward", recording)
        encoded = model._prepare_multimodal_encoder_kwargs_for_generation(dict(inputs))
    handle.remove()
    ours = [(w.detach(), k.detach()) for layer, w, k in found if id(layer) in inside]
    for output, out in zip(encoded["mm_encoder_outputs"].values(), outs, strict=True):
        state = state_of(model, out)
        flat = state.detach().flatten(end_dim=-2)
        took, shows, keys, parts = flat.new_zeros(len(flat)), flat.new_ones(len(flat)), [], 0
        while parts < len(flat):
            weights, key = ours.pop(0)
            for one, of_keys in zip(weights, key, strict=True):
                took[parts : parts + len(one[0])] = _asked(special, one.mean(dim=0))
                shows[parts : parts + special] = 0
                keys.append(of_keys.transpose(0, 1))
                parts += len(one[0])
        known = [x * shows.view(-1, *[1] * (x.ndim - 1)) for x in (took, torch.cat(keys), flat)]
        features = output.pooler_output
        each = features if isinstance(features, (list, tuple)) else list(features)
        for token in torch.cat([x.reshape(-1, x.shape[-1]) for x in each]):
            (slope,) = torch.autograd.grad(token.sum(), state, retain_graph=True, allow_unused=True)
            shown = torch.zeros(len(flat), dtype=torch.bool)
            if slope is not None:
                shown = slope.flatten(end_dim=-2).abs().sum(dim=-1) > 0
            assert int(shown.sum()) in (0, 1, 4)
            made.append([x[shown].sum(0) / max(1, int(shown.sum())) for x in known])
    assert not ours
    return [torch.stack(some) for some in zip(*made, strict=True)]


def _asked(special, weights):
    """`(n,)`, from a map `(n, n)`: the class token's row, or the mean over the images' rows."""
    if special:
        return weights[0]
    seen = weights > 0  # Pixtral's images in one sequence do not see each other
    return weights.sum(dim=0) / seen.sum(dim=0)


def compare(model, eager, inputs, monkeypatch):
    """What `visual_tokens` gives is what the encoder computed; returns it."""
    of_tokens = expected(eager, inputs, monkeypatch)
    images = otprune.visual_tokens(model, inputs, cues=sorted(SEEN))
    images.sort(key=lambda image: image.modality)  # as they were encoded
    for name, right in zip(("saliency", "keys", "encoded"), of_tokens, strict=True):
        got = torch.cat([getattr(image.cues, name) for image in images])
        assert got.dtype == torch.float32
        assert torch.allclose(got, right, atol=1e-5 * max(1.0, float(right.abs().max())))
    return images


@pytest.mark.parametrize("name", FAMILIES)
def test_each_token_gets_what_the_encoder_knows_of_it(name, build, monkeypatch):
    model, inputs = build(name), inputs_of(name)
    images = compare(model, build(name, "eager"), inputs, monkeypatch)
    for image in images:
        grid, added = image.cues.grid, image.cues.saliency == 0
        assert grid.shape == (len(image.features), 3)
        assert torch.equal(added, (grid == -1).all(dim=1))
        tiles = grid[~added, 0].unique()
        assert torch.equal(tiles, torch.arange(len(tiles)))
        for tile in tiles:  # each in raster order
            places = grid[grid[:, 0] == tile, 1:]
            assert bool(((places @ torch.tensor([1000, 1])).diff() > 0).all())
        first = grid[grid[:, 0] == 0, 1:]
        assert len(first) == int((first[-1] + 1).prod())
    with otprune.prune(model, Salient(3)) as run, torch.no_grad():
        model(**inputs)
    for item, image in zip(sorted(run.last, key=lambda item: item.modality), images, strict=True):
        assert torch.equal(item.indices, image.cues.saliency.topk(3).indices.sort().values)


@pytest.mark.parametrize("name", sorted(WITH_VIDEO - {"llava_onevision"}))
def test_the_grid_is_that_of_the_positions(name, build):
    """M-RoPE counts frames, rows and columns, too."""
    model, inputs = build(name), inputs_of(name)
    with torch.no_grad():
        places = full_positions(model, inputs, inputs["attention_mask"])
    images = otprune.visual_tokens(model, inputs, cues=["grid"])
    for image, found in zip(images, images_in(inputs["input_ids"]), strict=True):
        rows = places[-2:, image.row, found.columns]
        if name != "qwen3_vl":  # whose frames are placed one by one
            assert torch.equal(image.cues.grid[:, 1:].T, rows - rows.amin(dim=1, keepdim=True))
            assert int(image.cues.grid[:, 0].max()) == (2 if image.modality == "video" else 0)


def vision(kind, **more):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
    return {"model_type": kind, **sizes, "num_attention_heads": 4, "patch_size": 14, **more}


SQUARE = {"image_size": 56}
VARIANTS = {
    "clip, its class token too": (16 + 1, vision("clip_vision_model", **SQUARE), -2, "full"),
    "clip, several layers": (16, vision("clip_vision_model", **SQUARE), [-1, 2], "default"),
    "siglip": (16, vision("siglip_vision_model", **SQUARE, vision_use_head=False), -2, "full"),
    "dinov2": (16, vision("dinov2", **SQUARE), -2, "default"),
    "registers": (
        16 + 3,
        vision("dinov2_with_registers", **SQUARE, num_register_tokens=3),
        -1,
        "default",
    ),
}


def llava(tokens, config, layer, strategy):
    """A LLaVA with an encoder of its own, and inputs."""
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            text_config={"model_type": "llama", **TEXT},
            vision_config=config,
            image_token_index=IMAGE,
            vision_feature_layer=layer,
            vision_feature_select_strategy=strategy,
        )
    ).eval()
    inputs = prompts((1, 2), [[IMAGE] * tokens] * 3)
    return model, {**inputs, "pixel_values": torch.randn(3, 3, 56, 56)}


# It drops a token for a class token, and it is not known which.
MIXED = (15, vision("siglip_vision_model", **SQUARE, vision_use_head=False), -2, "default")


@pytest.mark.parametrize("variant", VARIANTS)
def test_llava_with_other_encoders(variant, monkeypatch):
    tokens = VARIANTS[variant][0]
    model, inputs = llava(*VARIANTS[variant])
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    images = compare(model, eager, inputs, monkeypatch)
    for image in images:
        assert image.cues.grid[: tokens - 16].eq(-1).all()
        assert image.cues.grid[-1].tolist() == [0, 3, 3]


def test_a_call_with_a_feature_layer_of_its_own(build, monkeypatch):
    model, inputs = build("llava"), inputs_of("llava")
    usual, *_ = otprune.visual_tokens(model, inputs, cues=["saliency", "encoded"])
    own, *_ = otprune.visual_tokens(
        model, {**inputs, "vision_feature_layer": -1}, cues=["saliency", "encoded"]
    )
    monkeypatch.setattr(model.config, "vision_feature_layer", -1)
    last, *_ = otprune.visual_tokens(model, inputs, cues=["saliency", "encoded"])
    for name in ("saliency", "encoded"):
        assert torch.equal(getattr(own.cues, name), getattr(last.cues, name))
        assert not torch.equal(getattr(own.cues, name), getattr(usual.cues, name))


def test_images_that_are_made_smaller(build, monkeypatch):
    """A token that is a mix of several gets the same mix of what is known of them."""
    model = build("llava_onevision")
    size = torch.tensor([(112, 112)])  # an overview and 2 x 2 tiles of 4 x 4 tokens
    inputs = {"pixel_values": torch.randn(1, 5, 3, 56, 56), "image_sizes": size}
    names = ["saliency", "keys", "encoded"]

    def image(tokens, cues):
        prompt = prompts((1,), [[IMAGE] * tokens])
        (found,) = otprune.visual_tokens(model, {**prompt, **inputs}, cues=cues)
        return found

    whole = image(16 + 8 * 8 + 8, SEEN).cues
    monkeypatch.setattr(model.config, "vision_aspect_ratio", "anyres_max_1")
    small = image(16 + 4 * 4 + 4, names).cues
    tile, row, column = whole.grid[16:].reshape(8, 9, 3)[:, :8].unbind(dim=-1)
    assert torch.equal(tile, 1 + torch.arange(8)[:, None] // 4 * 2 + torch.arange(8) // 4)
    assert torch.equal(row, torch.arange(8)[:, None].expand(8, 8) % 4)
    assert torch.equal(column, row.T)
    for name in names:
        before, after = getattr(whole, name), getattr(small, name)
        assert torch.equal(after[:16], before[:16])
        mosaic = before[16:].reshape(8, 9, -1)[:, :8]
        mean = mosaic.view(4, 2, 4, 2, -1).mean(dim=(1, 3))
        packed = after[16:].reshape(4, 5, -1)
        assert torch.allclose(packed[:, :4], mean, atol=1e-5 * float(mean.abs().max()))
        assert not packed[:, 4].any()
    with pytest.raises(UnsupportedError, match="it resizes an image of this call"):
        image(16 + 4 * 4 + 4, ["grid"])


def test_what_a_method_uses_and_does_not_need_may_be_missing(build):
    model, inputs = build("llava"), inputs_of("llava")
    GOT.clear()
    with torch.no_grad(), otprune.prune(model, Curious(0.5)):
        model(**inputs)
    assert {cues.names for _, cues in GOT} == {SEEN}
    tokens, cues = GOT[0]
    assert [len(x) == len(tokens) for x in cues.each(lambda x: x).given if x is not None]
    GOT.clear()
    with torch.no_grad(), otprune.prune(model, Curious(0.5), encoder=EncoderStage(0.5, after=1)):
        model(**inputs)
    model, inputs = llava(*MIXED)
    with torch.no_grad(), otprune.prune(model, Curious(0.5)):
        model(**inputs)
    assert {cues.names for _, cues in GOT} == {frozenset()}


def test_refusals(build, monkeypatch):
    model, inputs = build("llava"), inputs_of("llava")
    plain = model._prepare_multimodal_encoder_kwargs_for_generation(dict(inputs))
    with otprune.prune(model, Salient(3)), pytest.raises(UnsupportedError, match="pass pixels"):
        model(**plain)
    with pytest.raises(UnsupportedError, match=r"saliency .* prune without encoder="):
        otprune.prune(model, Salient(3), encoder=EncoderStage(0.5, after=1))
    with pytest.raises(OTPruneError, match="expected names out of encoded, grid, keys, saliency"):
        otprune.visual_tokens(model, inputs, cues=["salience"])
    with pytest.raises(OTPruneError, match="such as"):
        otprune.visual_tokens(model, inputs, cues="saliency")
    for layer in (0, -3):
        monkeypatch.setattr(model.config, "vision_feature_layer", layer)
        with pytest.raises(UnsupportedError, match="no layer that attends"):
            otprune.enable(model, Salient(3))
    monkeypatch.setattr(model.config, "vision_feature_layer", -2)
    monkeypatch.setattr(model.config, "model_type", "another")
    with pytest.raises(UnsupportedError, match="not known that each of its tokens"):
        otprune.prune(model, Salient(3))
    model, inputs = llava(*MIXED)
    with (
        otprune.prune(model, Salient(3)),
        pytest.raises(UnsupportedError, match="saliency of its own tokens are not known"),
    ):
        model(**inputs)


def test_an_unknown_encoder_is_refused_at_once():
    config = LlavaConfig(
        text_config={"model_type": "llama", **TEXT},
        vision_config=vision("vit", image_size=56),
        image_token_index=IMAGE,
    )
    model = LlavaForConditionalGeneration(config)
    with pytest.raises(UnsupportedError, match=r"saliency .*\(ViTModel\) cannot be read"):
        otprune.prune(model, Salient(3))
    with otprune.prune(model, Curious(3)):
        pass


def test_nothing_is_collected_for_other_methods(build, monkeypatch):
    monkeypatch.setattr(features, "seeing", None)
    model, inputs = build("llava"), inputs_of("llava")
    with torch.no_grad(), otprune.prune(model, otprune.TransportPrune(0.5)) as run:
        model(**inputs)
    assert run.last


def test_threads_and_what_is_left_behind(build):
    model, inputs = build("qwen2_vl"), inputs_of("qwen2_vl")
    stage = EncoderStage(0.5, after=1)
    found = AttentionInterface.get_interface

    def run(i):
        selector = (Salient(3), otprune.DPPPrune(3), otprune.DPPPrune(3))[i % 3]
        with (
            torch.no_grad(),
            otprune.prune(model, selector, encoder=stage if i % 3 == 1 else None) as run,
        ):
            model(**inputs)
        return torch.stack([item.indices for item in run.last])

    alone = [run(i) for i in range(3)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(run, range(9)))
    assert all(torch.equal(x, alone[i % 3]) for i, x in enumerate(together))
    assert not torch.equal(alone[0], alone[2])
    assert not [x for x in model.modules() if "forward" in vars(x)]
    assert AttentionInterface.get_interface is found


@pytest.mark.parametrize("name", ["llava_next", "qwen2_5_vl"])
def test_half_precision(name, build):
    exact, inputs = build(name), inputs_of(name)
    half = copy.deepcopy(exact).bfloat16()
    for image, right in zip(
        otprune.visual_tokens(half, inputs, cues=["saliency", "keys"]),
        otprune.visual_tokens(exact, inputs, cues=["saliency", "keys"]),
        strict=True,
    ):
        assert image.cues.names == {"saliency", "keys"}
        assert image.cues.saliency.dtype == image.cues.keys.dtype == torch.float32
        assert torch.corrcoef(torch.stack([image.cues.saliency, right.cues.saliency]))[0, 1] > 0.99


def test_generate_with_beams_and_gradients(build):
    model, inputs = build("llava_next"), inputs_of("llava_next", (1, 1, 0))
    with otprune.prune(model, Salient(3)) as run:
        out = model.generate(**inputs, max_new_tokens=3, num_beams=2)
    assert out.shape[1] == inputs["input_ids"].shape[1] + 3
    kept = [item.indices for item in run.last]
    with otprune.prune(model, Salient(3)) as run:
        model(**inputs).logits.sum().backward()
    model.zero_grad()
    assert all(map(torch.equal, kept, [item.indices for item in run.last]))
    for image in otprune.visual_tokens(model, inputs, cues=["saliency"]):
        assert not image.cues.saliency.requires_grad
        made = Salient(3).select(image.features, cues=image.cues)
        assert any(torch.equal(made, indices) for indices in kept)
