"""A selection inside an encoder equals the encoder with kept tokens literally repeated."""

import contextvars
import copy
import pickle
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from otprune import (
    DPPPrune,
    EncoderStage,
    KeepError,
    OTPruneError,
    RandomPrune,
    TransportPrune,
    UnsupportedError,
    WeightError,
)
from otprune.engines.transformers.tower import check_stage, staged
from otprune.engines.transformers.towers import TOWERS as KNOWN
from otprune.engines.transformers.towers import layers_of

from .reference import record, repeated, times_of
from .tiny import GRIDS, LAYERS, SIDE, TOWERS, build

ATTENTIONS = ("sdpa", "eager")


@cache
def tower_of(name, attention="sdpa"):
    return build(name, attention)


def layers(name, tower):
    return layers_of(tower, KNOWN[name])


def sets_of(name, plain, tower, inputs):
    """For each attention set its row and its tokens `(U, g)` there, in the order of the output."""
    if name.startswith("Qwen"):
        embedded = tower.patch_embed(inputs["hidden_states"])
        if hasattr(tower, "pos_embed"):
            place = torch.arange(len(embedded))  # never reordered
        else:
            # Where each token of the input stands in the sequence that enters the first layer.
            entered = plain.arguments[0]["hidden_states"]
            place = torch.cdist(embedded, entered).argmin(dim=1)
        units = place.view(-1, 4)
        frames = [int(h * w) // 4 for t, h, w in GRIDS.tolist() for _ in range(t)]
        return [(0, some) for some in units.split(frames)]
    if name == "PixtralVisionModel":
        lengths = [int(h * w) // 64 for h, w in inputs["image_sizes"].tolist()]
        return [(0, some[:, None]) for some in torch.arange(sum(lengths)).split(lengths)]
    rows = len(inputs["pixel_values"])
    special = plain.arguments[0]["hidden_states"].shape[1] - SIDE * SIDE
    if "patch_attention_mask" in inputs:
        real = inputs["patch_attention_mask"].reshape(rows, -1)
    elif "pixel_attention_mask" in inputs:
        real = inputs["pixel_attention_mask"].bool()
    else:
        real = torch.ones(rows, SIDE * SIDE).bool()
    return [(row, special + real[row].nonzero()) for row in range(rows)]


def run(name, tower, stage, inputs):
    """An unpruned run, one with the stage, and what the stage kept."""
    plain = record(tower, layers(name, tower), inputs)
    with staged(tower, stage) as calls:
        got = record(tower, layers(name, tower), inputs)
    (call,) = calls
    return plain, got, call


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("first", [0, 1, LAYERS - 1])
@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_equals_literal_copies(name, first, attention):
    tower, inputs = tower_of(name, attention), TOWERS[name].inputs()
    plain, got, call = run(name, tower, EncoderStage(keep=0.35, after=first), inputs)
    assert (call.layer, call.layers) == (first, LAYERS)
    sets = sets_of(name, plain, tower, inputs)
    assert [len(cells.cell) for cells in call.cells] == [len(units) for _, units in sets]

    whole = plain.arguments[0]["hidden_states"]
    rows, n = (1, len(whole)) if whole.ndim == 2 else whole.shape[:2]
    times, whose = torch.ones(rows, n).long(), torch.arange(n).repeat(rows, 1)
    visible = torch.zeros(rows, n).bool()
    for row in range(rows):
        special = n - SIDE * SIDE if not TOWERS[name].packed else 0
        visible[row, :special] = True
    for (row, units), cells in zip(sets, call.cells, strict=True):
        assert len(cells.kept) == max(1, round(0.35 * len(units)))
        times[row, units] = times_of(cells)[:, None]
        whose[row, units] = units[cells.representative]
        visible[row, units] = True

    for i in range(first):
        assert torch.equal(got.results[i], plain.results[i])
    for row in range(rows):
        expected = repeated(layers(name, tower), plain, first, row, times[row], visible[row])
        stands = (times[row] > 0) & visible[row]
        for i, right in enumerate(expected, first):
            state = got.results[i] if whole.ndim == 2 else got.results[i][row]
            assert torch.allclose(state[stands], right, atol=1e-5 * float(right.abs().max()))
            real = visible[row]
            assert torch.equal(state[real], state[whose[row]][real])  # the way back


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_the_mlp_of_the_layer_of_the_selection_works_on_kept_tokens_alone(name):
    tower, inputs = tower_of(name), TOWERS[name].inputs()
    cut = layers(name, tower)[1]
    mlp = cut.feed_forward if name == "PixtralVisionModel" else cut.mlp
    inner, given = next(x for x in mlp.modules() if isinstance(x, torch.nn.Linear)), []
    handle = inner.register_forward_pre_hook(lambda _, args: given.append(args[0].shape[-2]))
    tower(**inputs)
    with staged(tower, EncoderStage(keep=0.25, after=1)):
        tower(**inputs)
    handle.remove()
    assert given[1] < given[0] / 2


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_without_mass_kept_tokens_stand_once(name):
    tower, inputs = tower_of(name), TOWERS[name].inputs()
    stage = EncoderStage(keep=0.5, after=2, mass=False)
    plain, got, call = run(name, tower, stage, inputs)
    whole = plain.arguments[0]["hidden_states"]
    row, units = 0, sets_of(name, plain, tower, inputs)[0][1]
    n = whole.shape[-2]
    times, visible = torch.zeros(n).long(), torch.zeros(n).bool()
    special = n - SIDE * SIDE if not TOWERS[name].packed else 0
    times[:special], visible[:special] = 1, True
    for (where, some), cells in zip(sets_of(name, plain, tower, inputs), call.cells, strict=True):
        if where == row:
            times[some[cells.kept]], visible[some] = 1, True
    right = repeated(layers(name, tower), plain, 2, row, times, visible)[-1]
    state = got.results[-1] if whole.ndim == 2 else got.results[-1][row]
    stands = (times > 0) & visible
    assert torch.allclose(state[stands], right, atol=1e-5 * float(right.abs().max()))
    assert len(units) == len(call.cells[0].cell)


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_keeping_everything_is_bit_identical_and_leaves_nothing(name):
    tower, inputs = tower_of(name), TOWERS[name].inputs()
    plain = tower(**inputs, output_hidden_states=True)
    with staged(tower, EncoderStage(keep=1.0, after=1)) as calls:
        out = tower(**inputs, output_hidden_states=True)
    assert all(cells.is_whole for cells in calls[0].cells)
    assert torch.equal(out.last_hidden_state, plain.last_hidden_state)
    assert all(map(torch.equal, out.hidden_states, plain.hidden_states))
    assert not [x for x in tower.modules() if "forward" in vars(x)]
    assert torch.equal(tower(**inputs).last_hidden_state, plain.last_hidden_state)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "Qwen2_5_VisionTransformerPretrainedModel"])
@torch.no_grad()
def test_hidden_states_come_back_whole(name):
    tower, inputs = tower_of(name), TOWERS[name].inputs()
    plain = tower(**inputs, output_hidden_states=True)
    with staged(tower, EncoderStage(keep=0.3, after=2)):
        out = tower(**inputs, output_hidden_states=True)
    assert len(out.hidden_states) == LAYERS + 1
    for i, (state, before) in enumerate(zip(out.hidden_states, plain.hidden_states, strict=True)):
        assert state.shape == before.shape
        assert torch.equal(state, before) == (i <= 2)


@pytest.mark.parametrize("name", ["CLIPVisionModel", "Qwen2VisionTransformerPretrainedModel"])
def test_gradients_are_those_of_the_copies(name):
    tower, inputs = build(name), TOWERS[name].inputs()
    plain, got, call = run(name, tower, EncoderStage(keep=0.4, after=2), inputs)
    units, cells = sets_of(name, plain, tower, inputs)[0][1], call.cells[0]
    hidden = plain.arguments[0]["hidden_states"]
    n = hidden.shape[-2]
    times, visible = torch.zeros(n).long(), torch.zeros(n).bool()
    if name.startswith("CLIP"):
        times[0], visible[0] = 1, True
    for (row, some), one in zip(sets_of(name, plain, tower, inputs), call.cells, strict=True):
        if row == 0:
            times[some], visible[some] = times_of(one)[:, None], True
    kept = units[cells.kept].reshape(-1)
    (right,) = repeated(layers(name, tower), plain, 2, 0, times, visible)[-1:]
    place = (times > 0).cumsum(0) - 1
    state = got.results[-1] if hidden.ndim == 2 else got.results[-1][0]
    weight = tower.state_dict(keep_vars=True)[
        next(key for key, x in tower.named_parameters() if x.ndim >= 4)
    ]
    ours = torch.autograd.grad(state[kept].square().sum(), weight, retain_graph=True)[0]
    theirs = torch.autograd.grad(right[place[kept]].square().sum(), weight)[0]
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("name", TOWERS)
@torch.no_grad()
def test_half_precision(name):
    tower, inputs = build(name).bfloat16(), TOWERS[name].inputs()
    inputs = {k: x.bfloat16() if x.is_floating_point() else x for k, x in inputs.items()}
    with staged(tower, EncoderStage(keep=0.4, after=2)):
        out = tower(**inputs).last_hidden_state
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@torch.no_grad()
def test_other_threads_and_nested_blocks_keep_their_own():
    name = "CLIPVisionModel"
    tower, inputs = tower_of(name), TOWERS[name].inputs()
    stages = [None, EncoderStage(keep=0.3, after=1), EncoderStage(keep=5, after=3, mass=False)]

    def once(stage):
        if stage is None:
            return tower(**inputs).last_hidden_state
        with staged(tower, stage):
            return tower(**inputs).last_hidden_state

    right = [once(stage) for stage in stages]
    assert not torch.equal(right[1], right[2])
    wrong = []

    def work(i):
        for _ in range(30):
            if not torch.equal(once(stages[i]), right[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    with staged(tower, stages[1]):
        assert torch.equal(once(stages[2]), right[2])
        assert torch.equal(tower(**inputs).last_hidden_state, right[1])
    assert not [x for x in tower.modules() if "forward" in vars(x)]


@torch.no_grad()
def test_calls_within_a_call_have_their_own_state():
    """A hook calls the encoder again with fewer images, in the same thread or another one."""
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    few = {"pixel_values": inputs["pixel_values"][:1]}
    made, running = [], []

    def again(*_):
        if running:
            return
        running.append(True)
        made.append(tower(**few).last_hidden_state)
        with ThreadPoolExecutor() as pool:
            task = pool.submit(contextvars.copy_context().run, lambda: tower(**few))
            made.append(task.result().last_hidden_state)

    with staged(tower, EncoderStage(0.3, after=1)) as calls:
        right, alone = tower(**inputs).last_hidden_state, tower(**few).last_hidden_state
        handle = tower.encoder.layers[2].register_forward_hook(again)
        assert torch.equal(tower(**inputs).last_hidden_state, right)
        handle.remove()
    assert len(calls) == 5
    assert len(made) == 2
    assert all(torch.equal(one, alone) for one in made)


def test_nothing_is_left_after_an_error():
    tower = tower_of("SiglipVisionModel")
    with pytest.raises(ZeroDivisionError), staged(tower, EncoderStage(keep=0.5)):
        raise ZeroDivisionError
    assert not [x for x in tower.modules() if "forward" in vars(x)]


@torch.no_grad()
def test_copies_made_meanwhile_have_no_stage():
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    plain, own = tower(**inputs).last_hidden_state, tower.encoder.layers[3]
    own.forward = own.forward  # as an instance attribute
    with staged(tower, EncoderStage(0.5)):
        others = copy.deepcopy(tower), pickle.loads(pickle.dumps(tower))
        for other in others:
            assert torch.equal(other(**inputs).last_hidden_state, plain)
    for other in others:
        assert torch.equal(other(**inputs).last_hidden_state, plain)
        replaced = [x.forward for x in other.modules() if "forward" in vars(x)]
        assert all(isinstance(x, types.MethodType) for x in replaced)
        assert all(x.__self__ in other.modules() for x in replaced)


@torch.no_grad()
def test_a_replaced_forward_is_called_and_restored():
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    layer, called = tower.encoder.layers[3], []

    def own(*args, **kwargs):
        called.append(kwargs["hidden_states"].shape[1] if "hidden_states" in kwargs else None)
        return type(layer).forward(layer, *args, **kwargs)

    layer.forward = own
    with staged(tower, EncoderStage(keep=9, after=1)):
        tower(**inputs)
    assert called == [10]
    assert layer.forward is own


@torch.no_grad()
def test_any_method_selects():
    tower, inputs = tower_of("Dinov2Model"), TOWERS["Dinov2Model"].inputs()
    attended = []  # the states to which the attention of the third layer has added
    norm = tower.encoder.layer[2].norm2
    handle = norm.register_forward_pre_hook(lambda _, args: attended.append(args[0]))
    tower(**inputs)
    handle.remove()
    for method in (DPPPrune(0.25), RandomPrune(9)):
        with staged(tower, EncoderStage(selector=method)) as calls:
            tower(**inputs)
        expected = method.select(attended[0][:, 1:])
        assert all(map(torch.equal, [cells.kept for cells in calls[0].cells], expected))


def test_flash_is_given_the_masses_as_features():
    """The stand-in works as a flash kernel does: packed borders, and no bias."""
    from otprune.engines.transformers import attention

    seen = []

    def flash(module, query, key, value, attention_mask=None, scaling=None, **kwargs):
        seen.append((query.shape[-1], kwargs["cu_seq_lens_k"].tolist()))
        parts = []
        borders = kwargs["cu_seq_lens_k"].tolist()
        for a, b in pairwise(borders):
            one = [x[:, :, a:b] for x in (query, key, value)]
            parts.append(sdpa_attention_forward(module, *one, None, scaling=scaling)[0])
        return torch.cat(parts, dim=1), None

    name = "Qwen2VisionTransformerPretrainedModel"
    inputs = TOWERS[name].inputs()
    stage = EncoderStage(keep=0.5, after=1)
    with torch.no_grad(), staged(tower_of(name), stage):
        right = tower_of(name)(**inputs).last_hidden_state
    AttentionInterface.register("flash_attention_2", flash)
    known = dict(attention._ADAPTERS)
    attention._ADAPTERS[flash] = attention._add_as_features
    tower = build(name)
    try:
        tower.config._attn_implementation = "flash_attention_2"
        with torch.no_grad(), staged(tower, stage):
            out = tower(**inputs).last_hidden_state
    finally:
        attention._ADAPTERS.clear()
        attention._ADAPTERS.update(known)
        del AttentionInterface._global_mapping["flash_attention_2"]
        from transformers.integrations.flash_attention import flash_attention_forward

        AttentionInterface.register("flash_attention_2", flash_attention_forward)
    assert torch.allclose(out, right, atol=1e-4 * float(right.abs().max()))
    assert [size for size, _ in seen[:3]] == [8, 8, 16]
    assert seen[2][1][-1] == 56


def test_refusals():
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    tower.train()
    for layer in tower.encoder.layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
    with (
        pytest.raises(UnsupportedError, match="gradient checkpointing"),
        staged(tower, EncoderStage(keep=0.5)),
    ):
        tower(**inputs)

    tower = build("CLIPVisionModel")
    with pytest.raises(OTPruneError, match="after=4 layers, and the encoder has 4"):
        staged(tower, EncoderStage(keep=0.5, after=4)).__enter__()
    with pytest.raises(UnsupportedError, match="Linear"):
        staged(torch.nn.Linear(2, 2), EncoderStage(keep=0.5)).__enter__()
    both = torch.nn.ModuleList([tower, build("SiglipVisionModel")])
    with pytest.raises(UnsupportedError, match="CLIPVisionModel and SiglipVisionModel"):
        staged(both, EncoderStage(keep=0.5)).__enter__()

    with (
        pytest.raises(UnsupportedError, match="called by itself"),
        staged(tower, EncoderStage(keep=0.5, after=0)),
    ):
        tower.encoder(tower.embeddings(inputs["pixel_values"]))


def test_a_layer_that_does_not_call_its_norm_and_mlp_is_refused():
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    layer = tower.encoder.layers[2]
    layer.forward = lambda hidden_states, *args, **kwargs: layer.mlp(hidden_states)
    with (
        pytest.raises(UnsupportedError, match="CLIPVisionModel called mlp where"),
        staged(tower, EncoderStage(keep=0.5)),
    ):
        tower(**inputs)
    with staged(tower, EncoderStage(keep=0.5, after=3)):
        tower(**inputs)


def test_a_layer_without_norm_and_mlp_is_refused():
    tower = build("CLIPVisionModel")
    tower.encoder.layers[2] = torch.nn.Sequential(tower.encoder.layers[2])
    with pytest.raises(UnsupportedError, match="is a Sequential without layer_norm2 and mlp"):
        check_stage(tower, EncoderStage(keep=0.5))
    with (
        pytest.raises(UnsupportedError, match="is a Sequential without layer_norm2 and mlp"),
        staged(tower, EncoderStage(keep=0.5)),
    ):
        pass
    check_stage(tower, EncoderStage(keep=0.5, after=1))


@torch.no_grad()
def test_a_compiled_norm_and_mlp_do_not_compile_the_selection():
    seen = []

    class Watching(RandomPrune):
        def cells_each(self, sets, *args, **kwargs):
            seen.append(torch.compiler.is_compiling())
            return super().cells_each(sets, *args, **kwargs)

    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    stages = [EncoderStage(selector=Watching(keep), after=2) for keep in (0.3, 0.6)]
    right = []
    for stage in stages:
        with staged(tower, stage):
            right.append(tower(**inputs).last_hidden_state)
    tower.encoder.layers[2].layer_norm2.compile(backend="eager")
    tower.encoder.layers[2].mlp.compile(backend="eager")
    for stage, expected in zip(stages, right, strict=True):
        with staged(tower, stage):
            assert torch.equal(tower(**inputs).last_hidden_state, expected)
    assert seen == [False] * 4


def test_attention_that_would_lose_the_masses_is_refused():
    tower, inputs = build("CLIPVisionModel"), TOWERS["CLIPVisionModel"].inputs()
    AttentionInterface.register("unknown", lambda *args, **kwargs: sdpa_attention_forward(*args))
    try:
        tower.config._attn_implementation = "unknown"
        with (
            pytest.raises(UnsupportedError, match="unknown attention"),
            staged(tower, EncoderStage(keep=0.5)),
        ):
            tower(**inputs)
    finally:
        del AttentionInterface._global_mapping["unknown"]

    tower = build("CLIPVisionModel")
    for layer in tower.encoder.layers:
        layer.self_attn.forward = lambda hidden_states, **kwargs: (hidden_states, None)
    with (
        pytest.raises(UnsupportedError, match="attention interface alone"),
        staged(tower, EncoderStage(keep=0.5)),
    ):
        tower(**inputs)
    with staged(tower, EncoderStage(keep=0.5, mass=False)):
        tower(**inputs)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, OTPruneError, "one of the two"),
        ({"keep": 0.5, "selector": DPPPrune(0.5)}, OTPruneError, "one of the two"),
        ({"keep": 1.5}, KeepError, "1.5"),
        ({"keep": 0}, KeepError, "0"),
        ({"keep": "auto"}, KeepError, "auto|Auto"),
        ({"selector": "dpp"}, OTPruneError, "DPPPrune"),
        ({"selector": TransportPrune("auto")}, KeepError, "Auto"),
        ({"keep": 0.5, "after": 1.0}, OTPruneError, "after=1.0"),
        ({"keep": 0.5, "after": -1}, OTPruneError, "after=-1"),
        ({"keep": 0.5, "after": True}, OTPruneError, "after=True"),
        ({"keep": 0.5, "after": "half"}, OTPruneError, "half"),
        ({"keep": 0.5, "after": float("nan")}, OTPruneError, "nan"),
        ({"keep": 0.5, "mass": 1}, OTPruneError, "mass=1"),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        EncoderStage(**arguments)


@pytest.mark.parametrize("after", [0.5, np.float32(0.5), Fraction(1, 2)])
def test_a_share_of_the_layers_may_be_any_real_number(after):
    assert EncoderStage(0.5, after=after).layer(24) == 12
    assert EncoderStage(0.5, after=after).layer(1) == 0


def test_methods_that_need_weights_are_refused():
    class Needy(TransportPrune):
        needs = frozenset({"weights"})

    with pytest.raises(WeightError, match="needs weights"):
        EncoderStage(selector=Needy(0.5))
