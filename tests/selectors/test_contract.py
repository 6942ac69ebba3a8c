"""What every method promises, method by method."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otprune import (
    METHODS,
    DPPPrune,
    MMTok,
    OTPrune,
    OTPruneError,
    PruMergePlus,
    RandomPrune,
    Selector,
    SimplexPrune,
    TransportPrune,
)
from otprune.checks import check_tokens
from tests.random_tokens import INFORMED, cues_for, random_tokens

ALL = pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
BY_FEATURE = pytest.mark.parametrize(
    "method", [c for c in INFORMED.values() if not c.positional], ids=lambda c: c.name
)
# They count places in the order of the tokens: even steps, crops.
BY_PLACE = {"visionzip", "prumerge+", "holov"}
# Of equal tokens these do not always keep the first: VisPruner removes the first half of a list.
NOT_THE_FIRST = BY_PLACE | {"vispruner"}
SHAPES = [(40, 12), (30, 64)]


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_is_a_frozen_dataclass_with_a_name(method):
    selector = method(0.5)
    assert isinstance(selector, Selector)
    assert METHODS[method.name] is method
    assert 10 < len(method.summary) < 80
    assert next(f.name for f in dataclasses.fields(method)) == "keep"
    assert method(0.5) == selector
    assert hash(method(0.5)) == hash(selector)
    with pytest.raises(dataclasses.FrozenInstanceError):
        selector.keep = 3
    with pytest.raises(TypeError):
        method()


@ALL
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("keep", [1, 2, 0.3, 29])
def test_order_count_type(method, shape, keep):
    kept = method(keep).select(random_tokens(*shape))
    assert kept.dtype == torch.int64
    assert kept.shape == (method(keep).count(shape[0]),)
    assert (kept.diff() > 0).all()
    assert kept[0] >= 0
    assert kept[-1] < shape[0]


@ALL
@pytest.mark.parametrize("keep", [1.0, 40, 99])
def test_keeping_all_keeps_all(method, keep):
    assert method(keep).select(random_tokens(40, 12)).equal(torch.arange(40))
    assert method(keep).select(random_tokens(2, 40, 12)).equal(torch.arange(40).expand(2, 40))


@ALL
def test_one_token(method):
    for keep in (1, 0.01, 1.0):
        assert method(keep).select(torch.randn(1, 5)).tolist() == [0]
        assert method(keep).select(torch.zeros(1, 5)).tolist() == [0]
    assert method(1).select(random_tokens(9, 1)).shape == (1,)


@ALL
@pytest.mark.parametrize("shape", SHAPES)
def test_a_batch_is_its_rows(method, shape):
    batch = torch.stack([random_tokens(*shape, seed=s) * 10.0**s for s in range(4)])
    kept = method(0.3).select(batch)
    assert kept.equal(torch.stack([method(0.3).select(row) for row in batch]))


@ALL
def test_same_again_and_input_untouched(method):
    tokens = random_tokens(40, 12)
    before = tokens.clone()
    first = method(0.3).select(tokens)
    torch.manual_seed(1)
    assert method(0.3).select(tokens).equal(first)
    assert tokens.equal(before)


@ALL
def test_global_random_state_is_left_alone(method):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    method(0.3).select(random_tokens(40, 12))
    assert torch.get_rng_state().equal(state)


@ALL
def test_positional_means_whatever_the_tokens_hold(method):
    kept = [method(0.3).select(random_tokens(40, 12, seed=s)) for s in (0, 1)]
    assert kept[0].equal(kept[1]) == method.positional


def without(names):
    able = [c for n, c in INFORMED.items() if not c.positional and n not in names]
    return pytest.mark.parametrize("method", able, ids=lambda c: c.name)


@without(BY_PLACE)
@pytest.mark.parametrize("shape", SHAPES)
def test_permuting_tokens_permutes_the_selection(method, shape):
    tokens = random_tokens(*shape)
    shuffle = torch.randperm(shape[0], generator=torch.Generator().manual_seed(3))
    kept = method(0.3).select(tokens)
    assert shuffle[method(0.3).select(tokens[shuffle])].sort().values.equal(kept)


@BY_FEATURE
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_scale_does_not_matter(method, scale):
    tokens = random_tokens(40, 12)
    assert method(0.3).select(tokens * scale).equal(method(0.3).select(tokens))


@ALL
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float16, 1e-6),  # denormal, hardly any digits: many ties
        (torch.float16, 1.0),
        (torch.float16, 1e3),  # float16 ends at 65504
        (torch.bfloat16, 1e-6),
        (torch.bfloat16, 1.0),
        (torch.bfloat16, 1e6),
        (torch.float64, 1e-6),
        (torch.float64, 1e6),
    ],
)
def test_other_dtypes_are_computed_in_float32(method, dtype, scale):
    tokens = (random_tokens(40, 12) * scale).to(dtype)
    assert tokens.isfinite().all()
    assert method(0.3).select(tokens).equal(method(0.3).select(tokens.float()))


@ALL
def test_numpy(method):
    tokens = random_tokens(40, 12)
    kept = method(0.3).select(tokens)
    assert method(0.3).select(tokens.numpy()).equal(kept)
    assert method(0.3).select(np.asfortranarray(tokens.numpy())).equal(kept)
    assert method(0.3).select(tokens.numpy()[::-1]).shape == kept.shape


@BY_FEATURE
def test_layout_does_not_matter(method):
    tokens = random_tokens(40, 12)
    assert method(0.3).select(tokens.T.contiguous().T).equal(method(0.3).select(tokens))


@without(NOT_THE_FIRST)
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_among_identical_tokens_the_first_win(method, value):
    assert method(5).select(torch.full((12, 4), value)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["otprune", "transport", "divprune", "dpp"])
def test_duplicates_cost_one_place(name):
    """Every token twice: a method of diversity or coverage keeps one of each, the first."""
    tokens = random_tokens(10, 16)
    kept = METHODS[name](10).select(tokens.repeat(2, 1))
    assert kept.tolist() == list(range(10))


@pytest.mark.parametrize("name", ["transport", "divprune"])
def test_copies_of_what_is_kept_come_by_norm(name):
    """All ten are kept and five places are left: nothing but the rule tells the copies apart."""
    tokens = random_tokens(10, 300)  # wide, so that sums do round
    longest = tokens.norm(dim=-1).topk(5).indices.sort().values
    kept = METHODS[name](15).select(tokens.repeat(2, 1))
    assert kept.equal(torch.cat([torch.arange(10), 10 + longest]))


@without(NOT_THE_FIRST)
@pytest.mark.parametrize("keep", [1, 5, 20, 45])
def test_the_first_of_duplicates_goes_first(method, keep):
    tokens = random_tokens(30, 300)
    kept = set(method(keep).select(tokens.repeat(2, 1)).tolist())
    assert all(j - 30 in kept for j in kept if j >= 30)


@pytest.mark.parametrize("name", ["transport", "divprune", "dpp"])
def test_among_parallel_tokens_the_longest_wins(name):
    axes = torch.eye(3)
    tokens = torch.cat([axes, 2 * axes, 1.5 * axes])
    assert METHODS[name](3).select(tokens).tolist() == [3, 4, 5]


@BY_FEATURE
def test_zero_tokens_and_low_rank(method):
    tokens = random_tokens(30, 3) @ random_tokens(3, 20, seed=1)
    tokens[4], tokens[9] = 0, 0
    kept = method(12).select(tokens)  # many more than the rank
    assert kept.shape == (12,)
    assert (kept.diff() > 0).all()


@BY_FEATURE
def test_zero_columns(method):
    tokens = random_tokens(30, 20)
    tokens[:, 5] = 0
    fewer_columns = tokens[:, torch.arange(20) != 5]
    if method is OTPrune:  # its scaled gamma counts the columns
        assert (
            OTPrune(3, gamma=1.0).select(tokens).equal(OTPrune(3, gamma=1.0).select(fewer_columns))
        )
    else:
        cues = cues_for(method, tokens)
        fewer = cues
        if cues.question is not None:
            fewer = dataclasses.replace(cues, question=cues.question[:, torch.arange(20) != 5])
        cls = METHODS[method.name]
        kept = cls(3).select(tokens, cues=cues)
        assert cls(3).select(fewer_columns, cues=fewer).equal(kept)


@ALL
def test_autocast_and_default_dtype_do_not_reach_inside(method):
    tokens = random_tokens(40, 12)
    kept, merged = method(0.3).select(tokens), method(0.3).reduce(tokens, merge=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert method(0.3).select(tokens).equal(kept)
        assert method(0.3).reduce(tokens, merge=True).features.equal(merged.features)
    torch.set_default_dtype(torch.float64)
    try:
        assert method(0.3).select(tokens).equal(kept)
        assert method(0.3).reduce(tokens, merge=True).masses.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@ALL
def test_gradients_and_inference_mode(method):
    tokens = random_tokens(40, 12).requires_grad_()
    kept = method(0.3).select(tokens)
    assert not kept.requires_grad
    with torch.inference_mode():
        assert method(0.3).select(tokens).equal(kept)


def cues_of_sets(selector, sets):
    """What `cues_for` says, a question of its own for each set, and weights if they are used."""
    cues = cues_for(selector, sets)
    if cues.question is not None:
        cues = dataclasses.replace(cues, question=cues.question + random_tokens(3, 1, 12, seed=1))
    if "weights" in selector.uses:
        cues = dataclasses.replace(cues, weights=random_tokens(3, 40, seed=2).abs())
    return cues


@pytest.mark.parametrize(
    "selector",
    [
        *(method(7) for method in METHODS.values()),
        TransportPrune(7, question=0.4, saliency=0.3),
        OTPrune(7, question=0.4, saliency=0.3),
        DPPPrune(7, question=0.4, saliency=0.3),
        SimplexPrune(7, question=0.4, saliency=0.3),
    ],
    ids=repr,
)
def test_a_batch_at_once_is_its_sets(selector):
    """As a device runs it, where sets are not picked from one by one."""
    tokens = random_tokens(3, 40, 12)
    cues = cues_of_sets(selector, tokens)
    order = selector.pick(tokens, 7, cues)
    each = [cues.each(lambda x, b=b: x[b : b + 1]) for b in range(3)]
    alone = [selector.pick(tokens[b : b + 1], 7, each[b]) for b in range(3)]
    assert torch.equal(order, torch.cat(alone))
    if selector.merges:
        kept = order.sort().values
        weights = selector.merge_weights(tokens, kept, cues)
        for b in range(3):
            one = selector.merge_weights(tokens[b : b + 1], kept[b : b + 1], each[b])
            torch.testing.assert_close(weights[b : b + 1], one)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (OTPrune, {"gamma": np.float32(0.5), "rank": np.int64(4)}),
        (TransportPrune, {"question": np.float32(0.5), "saliency": np.int64(0)}),
        (SimplexPrune, {"damping": np.float32(0.5)}),
        (RandomPrune, {"seed": np.int64(3)}),
        (MMTok, {"text_temperature": np.float32(0.5), "image_weight": np.int64(1)}),
        (PruMergePlus, {"neighbours": np.int64(3), "salient_ratio": np.float32(0.5)}),
    ],
)
def test_settings_are_plain_numbers(method, settings):
    """They are written as JSON, and compared."""
    selector = method(np.int64(3), **settings)
    assert type(selector.keep) is int
    for name, given in settings.items():
        value = getattr(selector, name)
        assert type(value) in (int, float)
        assert value == given


class NoWaiting(TorchDispatchMode):
    """Raises where the host would wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in self.WAITS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


@ALL
def test_nothing_after_the_check_waits_for_the_device(method, monkeypatch):
    tokens = random_tokens(2, 40, 12)
    monkeypatch.setattr("otprune.selectors.gate.check_finite", lambda x: None)
    monkeypatch.setattr("otprune.selectors.cues.check_cue", lambda name, x, tokens: x)
    with NoWaiting():
        method(0.3).reduce(tokens, merge=True)
        assert method(0.3).reduce(tokens).masses.shape == (2, 12)
    with NoWaiting(), pytest.raises(AssertionError, match="_local_scalar_dense waits"):
        check_tokens(tokens)


@pytest.mark.parametrize("gamma", ["paper", 0, -1.0, float("nan"), float("inf"), True, None, 1e30])
def test_bad_gamma(gamma):
    with pytest.raises(OTPruneError, match=r"gamma.*scaled"):
        OTPrune(0.5, gamma=gamma)


@pytest.mark.parametrize("metric", ["manhattan", None, 2])
def test_bad_metric(metric):
    with pytest.raises(OTPruneError, match='expected "cosine" or "euclidean"'):
        TransportPrune(0.5, metric=metric)


@pytest.mark.parametrize("seed", [-1, 0.5, "a", True, None, 2**63])
def test_bad_seed(seed):
    with pytest.raises(OTPruneError, match="non-negative whole number"):
        RandomPrune(0.5, seed=seed)
