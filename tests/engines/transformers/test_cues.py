"""Cues of the vision encoder reach methods, each at its token.

Which tokens of the encoder a token of the prompt shows is found independently, by gradients.
"""

import sys
from dataclasses import dataclass

import pytest
import torch

import otprune
from otprune.engines.transformers.seen import SEEN
from otprune.engines.transformers.towers import layers_of, tower_of
from tests.families.tiny import FAMILIES

# Of the videos of LLaVA-OneVision the cues are not known: they are made smaller.
WITH_VIDEO = {name for name, x in FAMILIES.items() if x.has_video} - {"llava_onevision"}


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
    layer = getattr(model.config, "vision_feature_layer", None)
    if layer is None or model.config.model_type == "internvl":
        return out.last_hidden_state
    return out.hidden_states[layer]


def expected(name, inputs, monkeypatch):
    """For each image, in prompt order: saliency, features and keys of its tokens, by hand.

    The features of each token of the prompt are differentiated by the encoder's output: tokens of
    the encoder with a gradient are what it shows. Maps are those of an eager run.
    """
    model = FAMILIES[name].model("eager")
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
    depth = len(layers) - 1
    feature_layer = getattr(model.config, "vision_feature_layer", -1)
    if feature_layer != -1:
        depth += 1 + feature_layer
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
        took, keys, parts = torch.zeros(len(flat)), [], 0
        while parts < len(flat):
            weights, key = ours.pop(0)
            for one, of_keys in zip(weights, key, strict=True):
                took[parts : parts + len(one[0])] = _asked(row, tower, one.mean(dim=0))
                keys.append(of_keys.transpose(0, 1))
                parts += len(one[0])
        keys = torch.cat(keys)
        features = output.pooler_output
        each = features if isinstance(features, (list, tuple)) else list(features)
        for token in torch.cat([x.reshape(-1, x.shape[-1]) for x in each]):
            (slope,) = torch.autograd.grad(token.sum(), state, retain_graph=True, allow_unused=True)
            shown = torch.zeros(len(flat), dtype=torch.bool)
            if slope is not None:
                shown = slope.flatten(end_dim=-2).abs().sum(dim=-1) > 0
            assert int(shown.sum()) in (0, 1, 4)
            made.append([x[shown].sum(0) / max(1, int(shown.sum())) for x in (took, keys, flat)])
    assert not ours
    return [torch.stack(some) for some in zip(*made, strict=True)]


def _asked(row, tower, weights):
    """`(n,)`, from a map `(n, n)`: the class token's row, or the mean over the images' rows."""
    if type(tower).__name__ in ("CLIPVisionModel", "InternVLVisionModel"):
        return weights[0]
    seen = weights > 0  # Pixtral's images in one sequence do not see each other
    return weights.sum(dim=0) / seen.sum(dim=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_token_gets_what_the_encoder_knows_of_it(name, monkeypatch):
    inputs = inputs_of(name)
    saliency, keys, encoded = expected(name, inputs, monkeypatch)
    model = FAMILIES[name].model()
    by_modality = sorted(  # as they were encoded: images first
        otprune.visual_tokens(model, inputs, cues=tuple(SEEN)), key=lambda x: x.modality
    )
    assert {x.modality for x in by_modality} == {"image"} | (
        {"video"} if name in WITH_VIDEO else set()
    )
    start = 0
    for image in by_modality:
        here = slice(start, start + len(image.features))
        start = here.stop
        assert torch.allclose(image.cues.saliency, saliency[here], atol=1e-5)
        scale = float(encoded.abs().max())
        assert torch.allclose(image.cues.keys, keys[here], atol=1e-5 * float(keys.abs().max()))
        assert torch.allclose(image.cues.encoded, encoded[here], atol=1e-5 * scale)
        added = image.cues.saliency == 0
        assert torch.equal(added, (image.cues.grid < 0).any(dim=1))
        assert image.cues.grid.shape == (len(image.features), 3)
        inside = image.cues.grid[~added]
        assert int(inside[:, 0].min()) == 0
        assert len(torch.unique(inside, dim=0)) == len(inside)
    assert start == len(saliency)
    kept = 3
    with otprune.prune(model, Salient(kept)) as run, torch.no_grad():
        model(**inputs)
    for item, image in zip(
        run.last, otprune.visual_tokens(model, inputs, cues=["saliency"]), strict=True
    ):
        best = image.cues.saliency.topk(kept).indices.sort().values
        assert torch.equal(item.indices, best)
