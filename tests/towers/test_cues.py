"""What is read from an encoder equals what an eager run of it computes."""

import sys

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from otprune import UnsupportedError
from otprune.engines.transformers import saliency as formula
from otprune.engines.transformers.seen import seeing
from otprune.engines.transformers.sources import SEEN, source_of
from otprune.engines.transformers.towers import TOWERS as KNOWN
from otprune.engines.transformers.towers import layers_of
from otprune.engines.transformers.versions import installed

from .reference import record
from .test_stage import sets_of, tower_of
from .tiny import LAYERS, SIDE, TOWERS, build

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


@pytest.mark.parametrize("name", ["Idefics3VisionTransformer", "Qwen3VLVisionModel"])
@torch.no_grad()
def test_computed_in_chunks(name, monkeypatch):
    monkeypatch.setattr(formula, "LOGITS", 500)  # a few queries at once
    check(name, "sdpa", monkeypatch)


@pytest.mark.parametrize("name", ["PixtralVisionModel", "Qwen2_5_VisionTransformerPretrainedModel"])
@torch.no_grad()
def test_flash_attention(name, monkeypatch):
    """Which gets packed borders in place of masks and of calls one by one."""
    called = []

    def flash(layer, query, key, value, attention_mask, scaling, cu_seq_lens_q=None, **given):
        called.append(cu_seq_lens_q)
        lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
        parts = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
        out = [scaled_dot_product_attention(*part, scale=scaling) for part in parts]
        return torch.cat(out, dim=2).transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", flash)
    config = tower_of(name, "sdpa").config
    monkeypatch.setattr(config, "_attn_implementation", "flash_attention_2")
    if name == "PixtralVisionModel" and installed() < (5, 23):  # positions in place of borders
        with seeing(tower_of(name, "sdpa"), SEEN, {}) as calls:
            tower_of(name, "sdpa")(**TOWERS[name].inputs())
        assert "by their positions" in calls[0].lacking["saliency"]
        return
    check(name, "sdpa", monkeypatch)
    assert called[0] is not None


def test_masks():
    """Of flash attention, `(R, n)`; additive, `(1, 1, n, n)`; of flex attention; none."""
    query, key = torch.randn(2, 2, 4, 5, 3).unbind()
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    (part,) = formula.parts_of(0, query, key, real, {})
    weights = (query[1] @ key[1, :, :3].transpose(1, 2) * 3**-0.5).softmax(dim=-1)
    got = formula.received([part], 1, torch.arange(5), None)
    assert torch.allclose(got[:3], weights[:, :3].mean(dim=(0, 1)))
    assert got[3:].tolist() == [0, 0]
    added = torch.zeros(1, 1, 5, 5)
    added[..., 3:] = torch.finfo(torch.float32).min
    (part,) = formula.parts_of(0, query, key, added, {"scaling": 3**-0.5})
    assert torch.allclose(formula.received([part], 1, torch.arange(5), None), got)
    flex = create_block_mask(lambda b, h, q, k: k < 5 - 2 * b, 2, None, 5, 5, device="cpu")
    (part,) = formula.parts_of(0, query, key, flex, {})
    assert torch.allclose(formula.received([part], 1, torch.arange(5), None), got)
    (part,) = formula.parts_of(0, query, key, None, {})
    alone = (query[0, :, :1] @ key[0].transpose(1, 2) * 3**-0.5).softmax(dim=-1).mean(dim=(0, 1))
    assert torch.allclose(formula.received([part], 0, torch.arange(1, 5), 0), alone[1:])


@pytest.mark.parametrize("mask", ["causal", object()])
def test_unknown_masks_are_refused(mask):
    query = torch.randn(1, 4, 5, 3)
    with pytest.raises(UnsupportedError, match="mask of type"):
        formula.parts_of(0, query, query, mask, {})
    with pytest.raises(UnsupportedError, match="differ in number"):
        formula.parts_of(0, query, query[:, :2], None, {})


@torch.no_grad()
def test_windows_and_other_attention_are_refused(monkeypatch):
    tower, inputs = build(QWEN25), TOWERS[QWEN25].inputs()
    monkeypatch.setattr(tower, "fullatt_block_indexes", [])
    with pytest.raises(UnsupportedError, match="no layer that attends"), seeing(tower, SEEN, {}):
        pass
    monkeypatch.setattr(tower, "fullatt_block_indexes", [0, 2])
    assert source_of(tower, SEEN, {}).layer is tower.blocks[2]
    monkeypatch.setattr(tower, "fullatt_block_indexes", [3])  # its layer 3 is of windows
    with seeing(tower, SEEN, {}) as calls:
        monkeypatch.setattr(tower, "fullatt_block_indexes", [2])
        tower(**inputs)
    assert "do not all attend to each other" in calls[0].lacking["saliency"]
    assert calls[0].sets[0].names == {"keys", "encoded", "grid"}
    name = "SiglipVisionModel"
    tower, inputs = build(name), TOWERS[name].inputs()
    for layer in layers_of(tower, KNOWN[name]):
        monkeypatch.setattr(
            layer.self_attn, "forward", lambda hidden_states, **_: (hidden_states,) * 2
        )
    with seeing(tower, SEEN, {}) as calls:
        tower(**inputs)
    assert calls[0].lacking.keys() == {"saliency", "keys"}
    assert calls[0].sets[0].names == {"encoded", "grid"}
