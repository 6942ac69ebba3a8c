"""What a model's configuration says of its vision encoder, and a stage inside it without vLLM."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import otprune
from otprune.engines.vllm import towers
from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.tower import Staged, cells_of_images, staged
from otprune.measures.cells import Cells

PLAIN, PACKS = (FAMILIES[f"{name}ForConditionalGeneration"] for name in ("Llava", "LlavaNext"))


def clip(layers=24, **others):
    vision = SimpleNamespace(
        model_type="clip_vision_model", num_hidden_layers=layers, image_size=336, patch_size=14
    )
    return SimpleNamespace(vision_config=vision, vision_feature_layer=-2, **others)


def intern():
    vision = SimpleNamespace(
        model_type="internvl_vision",
        num_hidden_layers=24,
        image_size=[448, 448],
        patch_size=[14, 14],
    )
    return SimpleNamespace(vision_config=vision, vision_feature_layer=-1, downsample_ratio=0.5)


def qwen(layers=32):
    vision = SimpleNamespace(model_type="qwen2_5_vl_vision", depth=layers, spatial_merge_size=2)
    return SimpleNamespace(vision_config=vision)


STAGE = otprune.EncoderStage(0.35, after=0.6)


@pytest.mark.parametrize(
    ("config", "after", "layer"), [(clip(), 0.6, 14), (qwen(), 0.6, 19), (intern(), 23, 23)]
)
def test_the_first_layer_behind_a_stage_counts_all_layers(config, after, layer):
    assert towers.first_layer(config, otprune.EncoderStage(0.35, after=after)) == layer


@pytest.mark.parametrize(("config", "after"), [(clip(), 23), (clip(2), 0.9), (qwen(), 32)])
def test_a_stage_behind_what_the_model_reads_is_refused(config, after):
    with pytest.raises(otprune.OTPruneError, match=r"give a smaller"):
        towers.check_stage(config, None, otprune.EncoderStage(0.35, after=after))


def test_what_would_be_wrong_is_refused():
    towers.check_stage(clip(), SimpleNamespace(mm_encoder_tp_mode="weights"), STAGE)
    with pytest.raises(otprune.UnsupportedError, match="mm-encoder-tp-mode data"):
        towers.check_stage(clip(), SimpleNamespace(mm_encoder_tp_mode="data"), STAGE)
    with pytest.raises(otprune.UnsupportedError, match="compile_mm_encoder"):
        towers.check_stage(clip(**{towers.COMPILED: True}), None, STAGE)
    other = SimpleNamespace(vision_config=SimpleNamespace(model_type="pixtral"))
    with pytest.raises(otprune.UnsupportedError, match=r"encoder \(pixtral\)"):
        towers.check_stage(other, None, STAGE)


@pytest.mark.parametrize(
    ("config", "family", "m", "grid", "most"),
    [
        (clip(), PLAIN, 576, None, 202),
        (clip(), PLAIN, 577, None, None),  # with the class token
        (clip(), PACKS, 1000, None, None),
        (intern(), PLAIN, 3 * 256, None, 3 * 90),  # three tiles
        (intern(), PLAIN, 256, None, 90),  # eight frames
        (qwen(), PLAIN, 12, [1, 6, 8], 4),
        (qwen(), PLAIN, 5 * 12, [5, 6, 8], 5 * 4),  # a video as one set
        (qwen(), PLAIN, 12, [5, 6, 8], 4),  # frame by frame
    ],
)
def test_how_many_tokens_differ_behind_a_stage(config, family, m, grid, most):
    assert towers.most_kept(config, family, STAGE, m, grid) == most


def cells(m, k):
    """A plan by which the first k of m tokens stay, and the last of these stands for the rest."""
    return Cells(torch.arange(k), torch.arange(m).clamp(max=k - 1))


def test_the_sets_of_an_encoder_by_image():
    made = Staged([cells(4, 2), cells(4, 1), cells(6, 3)])
    tiles, frame = cells_of_images(made, [(1, 8), (1, 6)])
    assert tiles[0].kept.tolist() == [0, 1, 4]
    assert frame[0].kept.tolist() == [0, 1, 2]
    first, second = cells_of_images(Staged([cells(4, 2), cells(4, 1)]), [(2, 4)])[0]
    assert (first.kept.tolist(), second.kept.tolist()) == ([0, 1], [0])
    assert cells_of_images(made, [(1, 9), (1, 6)]) == [None, None], "a token is added"


def test_the_sets_of_an_encoder_where_tiles_are_packed():
    made = Staged([cells(2, 1), cells(2, 2)], [torch.tensor([0, 1, -1]), None], packed=4)
    shown, mixed = cells_of_images(made, [(1, 3), (1, 5)])
    assert shown[0].kept.tolist() == [0, 2], "the newline stays"
    assert mixed is None


# -- an encoder as vLLM builds it ----------------------------------------------------------------


class MMEncoderAttention(nn.Module):
    """As vLLM's class of this name, for one image a row or packed parts."""

    head_size, scale = 4, 0.5

    def forward_native(self, query, key, value, cu_seqlens=None):
        raise NotImplementedError

    def forward(self, query, key, value, cu_seqlens=None):
        whole = (x if x.ndim == 4 else x.unflatten(-1, (-1, self.head_size)) for x in (query, key))
        q, k = whole
        v = value if value.ndim == 4 else value.unflatten(-1, (-1, self.head_size))
        lengths = [q.shape[1]] if cu_seqlens is None else cu_seqlens.diff().tolist()
        parts = zip(*(x.split(lengths, dim=1) for x in (q, k, v)), strict=True)
        made = [
            nn.functional.scaled_dot_product_attention(
                *(x.transpose(1, 2) for x in part), scale=self.scale
            ).transpose(1, 2)
            for part in parts
        ]
        out = torch.cat(made, dim=1)
        return out if query.ndim == 4 else out.flatten(2)


class FusedNorm(nn.LayerNorm):
    """As vLLM's RMSNorm is called in Qwen2.5-VL: it adds, and returns the sum besides."""

    def __init__(self):
        super().__init__(8)

    def forward(self, x, residual):
        return super().forward(x + residual), x + residual


class Layer(nn.Module):
    def __init__(self, times=1):
        super().__init__()
        self.qkv, self.layer_norm2 = nn.Linear(8, 24), nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.attn, self.times, self.seen = MMEncoderAttention(), times, []

    def forward(self, hidden_states):
        self.seen.append(hidden_states.shape)
        for _ in range(self.times):
            before, added = hidden_states, self.attn(*self.qkv(hidden_states).chunk(3, dim=-1))
            hidden_states = before + added
        if isinstance(self.layer_norm2, FusedNorm):
            normed, hidden_states = self.layer_norm2(before, residual=added)
        else:
            normed = self.layer_norm2(hidden_states)
        return hidden_states + self.mlp(normed)


class Tower(nn.Module):
    """CLIP: a class token and 4 x 4 patches of 2 x 2 pixels."""

    def __init__(self, times=1):
        super().__init__()
        self.config = SimpleNamespace(patch_size=2)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(times) for _ in range(3))
        self.embed = nn.Linear(12, 8)

    def forward(self, pixel_values):
        patches = pixel_values.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 1, 4, 5)
        hidden = self.embed(patches.flatten(3).flatten(1, 2))
        hidden = torch.cat([torch.ones_like(hidden[:, :1]), hidden], dim=1)
        for layer in self.encoder.layers:
            hidden = layer(hidden)
        return hidden


def model_of(times=1):
    torch.manual_seed(0)
    model = nn.Module()
    model.config = clip(3)
    model.config.vision_feature_layer = -1
    model.vision_tower = nn.Module()
    model.vision_tower.vision_model = Tower(times)
    return model


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_later_layers_work_on_the_kept_tokens_and_give_back_whole_grids(pixels):
    model = model_of()
    tower = model.vision_tower.vision_model
    asked = []

    def first(x):
        asked.append(x)
        return x

    before = [dict(vars(module)) for module in model.modules()]
    with staged(model, otprune.EncoderStage(4, after=1), first) as made:
        out = tower(pixels)
    assert [dict(vars(module)) for module in model.modules()] == before, "nothing is left"
    assert len(asked) == 1, "one message to the other ranks"
    assert [layer.seen[-1] for layer in tower.encoder.layers] == [(2, 17, 8), (2, 17, 8), (2, 5, 8)]
    for row, plan in enumerate(made.sets):
        assert len(plan.kept) == 4
        tokens = out[row, 1:]
        assert torch.equal(tokens, tokens[plan.representative])


@torch.no_grad()
def test_a_mass_is_copies_that_see_each_other(pixels):
    model = model_of()
    tower = model.vision_tower.vision_model
    with staged(model, otprune.EncoderStage(4, after=1), lambda x: x) as made:
        out = tower(pixels[:1])
    hidden = []  # the layer of the selection is exact for the tokens that it keeps
    tower.encoder.layers[2].register_forward_pre_hook(lambda _, args: hidden.append(args[0]))
    tower(pixels[:1])
    (plan,) = made.sets
    copied = torch.cat([hidden[0][:, :1], hidden[0][:, 1:][:, plan.representative]], dim=1)
    torch.testing.assert_close(out, tower.encoder.layers[2](copied))


@torch.no_grad()
def test_a_stage_that_keeps_all_changes_no_bit(pixels):
    model = model_of()
    with staged(model, otprune.EncoderStage(16, after=1), lambda x: x) as made:
        out = model.vision_tower.vision_model(pixels)
    assert all(plan.is_whole for plan in made.sets)
    assert torch.equal(out, model.vision_tower.vision_model(pixels))


@torch.no_grad()
def test_features_that_are_not_finite_do_not_end_the_engine(pixels):
    pixels[0, 0, 0, 0] = float("nan")
    model = model_of()
    with staged(model, otprune.EncoderStage(4, after=1), lambda x: x) as made:
        model.vision_tower.vision_model(pixels)
    assert [len(plan.kept) for plan in made.sets] == [4, 4]


@torch.no_grad()
def test_masses_that_would_be_lost_are_an_error(pixels):
    model = model_of(times=2)
    with (
        staged(model, otprune.EncoderStage(4, after=1), lambda x: x),
        pytest.raises(otprune.UnsupportedError, match="attended 2 times"),
    ):
        model.vision_tower.vision_model(pixels)


@torch.no_grad()
def test_the_selection_sees_what_the_attention_gave_and_a_fused_norm_returns_it(pixels):
    model = model_of()
    layer = model.vision_tower.vision_model.encoder.layers[1]
    seen = []
    handle = layer.layer_norm2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.vision_tower.vision_model(pixels)
    handle.remove()
    wanted = otprune.DPPPrune(4).select(seen[0][:, 1:])
    for norm in (layer.layer_norm2, FusedNorm()):
        layer.layer_norm2 = norm
        with staged(model, otprune.EncoderStage(4, after=1), lambda x: x) as made:
            model.vision_tower.vision_model(pixels)
        assert all(map(torch.equal, [plan.kept for plan in made.sets], wanted))


@torch.no_grad()
def test_a_layer_that_does_not_call_its_norm_and_mlp_is_an_error(pixels):
    model = model_of()
    layer = model.vision_tower.vision_model.encoder.layers[1]
    layer.forward = lambda hidden_states: layer.mlp(hidden_states)
    with (
        staged(model, otprune.EncoderStage(4, after=1), lambda x: x),
        pytest.raises(otprune.UnsupportedError, match="called mlp where"),
    ):
        model.vision_tower.vision_model(pixels)
