"""What is read from an encoder equals what an eager run of it computes."""

import sys

import pytest
import torch
from transformers.integrations.flex_attention import flex_attention_forward  # noqa: F401

from otprune.engines.transformers.seen import SEEN, seeing
from otprune.engines.transformers.towers import TOWERS as KNOWN
from otprune.engines.transformers.towers import layers_of

from .reference import record
from .test_stage import sets_of, tower_of
from .tiny import LAYERS, SIDE, TOWERS

QWEN25 = "Qwen2_5_VisionTransformerPretrainedModel"
FULL = {QWEN25: 2}  # the last layer that attends to whole frames, where that is not the last


def eager_maps(name, monkeypatch):
    """`(h, q, n)` maps and `(1 or B, h, n, c)` keys of each layer, from an eager run."""
    tower, found = tower_of(name, "eager"), []
    module = sys.modules[type(tower).__module__]
    eager = module.eager_attention_forward

    def recording(layer, query, key, *args, **kwargs):
        out, weights = eager(layer, query, key, *args, **kwargs)
        found.append((layer, weights, key))
        return out, weights

    monkeypatch.setattr(module, "eager_attention_forward", recording)
    out = tower(**TOWERS[name].inputs())
    layer = layers_of(tower, KNOWN[name])[FULL.get(name, LAYERS - 1)]
    inside = {id(x) for x in layer.modules()}
    maps = [weights for x, weights, _ in found if id(x) in inside]
    keys = [key for x, _, key in found if id(x) in inside]
    return out.last_hidden_state, maps, torch.cat(keys, dim=2)


def attention_of(maps, row, units):
    """`(U, g)`: what the tokens of a set get, by the definition."""
    tokens = units.reshape(-1)
    if len(maps) > 1:  # one map a frame
        starts = torch.tensor([0] + [len(x[0, 0]) for x in maps]).cumsum(0)
        part = int((starts <= int(tokens.min())).sum()) - 1
        weights, tokens = maps[part][0].mean(dim=0), tokens - starts[part]
    else:
        weights = maps[0][row].mean(dim=0)
    special = len(weights) - SIDE * SIDE
    if len(maps) == 1 and len(maps[0]) > 1 and special:
        got = weights[0]  # the class token asks
    else:
        got = weights[tokens].mean(dim=0)
    return got[tokens].view(units.shape)


def check(name, attention, monkeypatch):
    inputs = TOWERS[name].inputs()
    last, maps, keys = eager_maps(name, monkeypatch)
    tower = tower_of(name, attention)
    with seeing(tower, SEEN, {}) as calls:
        tower(**inputs)
    (seen,) = calls
    plain = record(tower, layers_of(tower, KNOWN[name]), inputs)
    sets = sets_of(name, plain, tower, inputs)
    last, n = last.flatten(end_dim=-2), last.shape[-2]
    ahead = 0 if TOWERS[name].packed else n - SIDE * SIDE  # special tokens, in the output, too
    assert seen.sizes == [ahead + len(units) for _, units in sets]
    for i, (cues, (row, units)) in enumerate(zip(seen.sets, sets, strict=True)):
        assert cues.saliency.dtype == cues.keys.dtype == cues.encoded.dtype == torch.float32
        assert not any(x[:ahead].any() for x in (cues.saliency, cues.keys, cues.encoded))
        assert bool((cues.grid[:ahead] == -1).all())
        assert cues.grid[ahead:, 0].tolist() == [i] * len(units)
        cues = cues.each(lambda x: x[ahead:])
        assert torch.allclose(cues.saliency, attention_of(maps, row, units).mean(1), atol=1e-5)
        of_row = keys[row].transpose(0, 1)
        assert torch.allclose(cues.keys, of_row[units].mean(1), atol=1e-5)
        assert torch.allclose(cues.encoded, last[units + row * n].mean(1), atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_equals_an_eager_run(name, attention, monkeypatch):
    check(name, attention, monkeypatch)


@pytest.mark.parametrize("name", ["Idefics3VisionTransformer"])
@torch.no_grad()
def test_flex_attention(name, monkeypatch):
    check(name, "flex_attention", monkeypatch)
