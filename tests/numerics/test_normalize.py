"""What is refused as tokens or weights, in which words; and normalisation at every scale."""

import itertools

import numpy as np
import pytest
import torch

from otprune import CueError, OTPrune, OTPruneError, TokenError, WeightError
from otprune.checks import check_cue, check_tokens, check_weights
from otprune.numerics.normalize import norms, unit_columns, unit_columns_norms, unit_rows
from tests.random_tokens import INFORMED, random_tokens

X = random_tokens(10, 4)


def broken(value, *at, x=X):
    x = x.clone()
    for i in at:
        x[i] = value
    return x


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (X[0], ["(4,)", "(m, d) or (B, m, d)"]),
        (X[None, None], ["(1, 1, 10, 4)", "(m, d) or (B, m, d)"]),
        (X[:0], ["(0, 4)", "empty"]),
        (X[:, :0], ["(10, 0)", "empty"]),
        (X[None][:0], ["(0, 10, 4)", "empty"]),
        (X.int(), ["torch.int32", "floating"]),
        (X.bool(), ["torch.bool", "floating"]),
        (X.to(torch.complex64), ["complex64", "real floating"]),
        (X.int().numpy(), ["int32", "floating"]),
        (X.numpy().astype(complex), ["complex128", "real floating"]),
        (X.numpy().astype(str), ["<U", "convert first"]),
        (X.numpy().astype(X.numpy().dtype.newbyteorder()), ["f4", "byte order"]),
        (X.tolist(), ["list", "tensor or numpy array"]),
        (None, ["NoneType", "tensor or numpy array"]),
        (broken(torch.nan, 3, 7), ["2 of 10 tokens", "NaN or Inf"]),
        (broken(-torch.inf, 3), ["1 of 10 tokens", "NaN or Inf"]),
        (torch.stack([X, broken(torch.nan, 0)]), ["1 of 20 tokens", "NaN or Inf"]),
        (X.double() * 1e300, ["10 of 10 tokens", "float32"]),
    ],
    ids=str,
)
def test_bad_tokens(tokens, words):
    for call in (OTPrune(0.5).select, OTPrune(0.5).reduce, OTPrune(1.0).select):
        with pytest.raises(TokenError) as caught:
            call(tokens)
        assert isinstance(caught.value, OTPruneError)
        assert isinstance(caught.value, ValueError)
        assert "\n" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("method", INFORMED)
def test_every_method_looks_at_its_tokens(method):
    with pytest.raises(TokenError, match="NaN"):
        INFORMED[method](3).select(broken(torch.nan, 9))


@pytest.mark.parametrize("method", INFORMED)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 1e300])
def test_one_broken_number_anywhere(method, value):
    """Also where methods look for themselves: in a token without weight, in any part of a batch."""
    batch = torch.randn(7, 10, 4, dtype=torch.float64)
    batch[6, 9, 3] = value
    selectors = [INFORMED[method](keep) for keep in (3, 1.0)]
    if method == "otprune":
        selectors += [OTPrune(3, rank=2), OTPrune(3, gamma=1e10)]
    for selector in selectors:
        for call in (selector.select, selector.reduce, selector.select_each, selector.reduce_each):
            with pytest.raises(TokenError, match=r"1 of (70|10) tokens hold NaN or Inf"):
                call(batch)
        if "weights" in selector.uses:
            with pytest.raises(TokenError, match="NaN or Inf"):
                selector.select(batch, weights=(torch.arange(10) < 9).double().expand(7, 10))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(9), ["(9,)", "(10,)"]),
        (torch.ones(1, 10), ["(1, 10)", "(10,)"]),
        (torch.ones(10) - 2 * torch.eye(10)[4], ["negative"]),
        (torch.zeros(10), ["all zero"]),
        (torch.full((10,), torch.nan), ["NaN or Inf"]),
        (torch.full((10,), torch.inf), ["NaN or Inf"]),
        (torch.ones(10, dtype=torch.complex64), ["complex"]),
        (["a"] * 10, ["not numbers"]),
        (object(), ["not numbers"]),
    ],
    ids=itertools.count(),
)
def test_bad_weights(weights, words):
    with pytest.raises(WeightError) as caught:
        OTPrune(0.5).select(X, weights=weights)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_one_row_of_a_batch_without_weight_is_refused():
    with pytest.raises(WeightError, match="all zero"):
        OTPrune(0.5).select(torch.stack([X, X]), weights=torch.eye(2)[:, :1].expand(2, 10))


def test_nobody_looks_while_a_cuda_graph_is_captured(monkeypatch):
    class OnCuda(torch.Tensor):
        is_cuda = True

    tokens = broken(torch.nan, 2).as_subclass(OnCuda)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    with pytest.raises(TokenError, match="1 of 10"):
        check_tokens(tokens)
    with pytest.raises(CueError, match="NaN"):
        check_cue("saliency", tokens[:, 0], tokens)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert check_tokens(tokens) is tokens
    assert check_cue("saliency", tokens[:, 0], tokens).isnan().any()


@pytest.mark.parametrize("value", [1e-300, 0.3, 1, 7.0, 1e300])
def test_equal_weights_are_exactly_one(value):
    assert check_weights(np.full(577, value), (577,)).eq(1).all()


def test_weights_in_any_layout():
    w = np.array([1.0, 2.0, 3.0])
    right = check_weights(w[::-1].copy(), (3,))
    assert torch.equal(check_weights(w[::-1], (3,)), right)
    assert torch.equal(check_weights(torch.tensor(w[::-1].copy()).to_sparse(), (3,)), right)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-6, 1.0, 1e6, 1e30])
def test_normalisation_at_every_scale(scale):
    x = (X * scale)[None]
    tolerance = 1e-2 if scale < 1e-38 else 1e-5  # below 1e-38 float32 itself gets coarse
    torch.testing.assert_close(unit_rows(x).norm(dim=-1), torch.ones(1, 10), rtol=tolerance, atol=0)
    torch.testing.assert_close(
        unit_columns(x).norm(dim=-2), torch.ones(1, 4), rtol=tolerance, atol=0
    )
    wanted = X.norm(dim=-1) / X.abs().max()
    torch.testing.assert_close(norms(x)[0], wanted, rtol=tolerance, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_set_is_normalised_as_if_it_were_alone(weighted):
    """Sums of squares of all magnitudes side by side: some fit into float32, and some do not."""
    scales = torch.tensor([1.0, 1e-30, 1e30, 3e-22, 0.0, 3.0])
    batch = torch.stack([X * scale for scale in scales])
    batch[5, :, 2] *= 1e-20
    weights = torch.linspace(0, 2, 10).expand(6, 10) if weighted else None
    lengths = torch.arange(1.0, 7.0)[:, None, None]
    V, size = unit_columns_norms(batch, weights, lengths)
    for b in range(6):
        own = None if weights is None else weights[b : b + 1]
        alone = unit_columns_norms(batch[b : b + 1], own, lengths[b : b + 1])
        assert V[b].equal(alone[0][0])
        assert size[b].equal(alone[1][0])
    wanted = X.double() / X.double().square().mul(1 if own is None else own.mT).sum(dim=0).sqrt()
    for b in (0, 1, 2, 3, 5):
        torch.testing.assert_close(V[b], (wanted * lengths[b]).float(), rtol=1e-4, atol=0)
    assert V[4].eq(0).all()
    for b in (0, 1, 2, 3):
        torch.testing.assert_close(size[b] / size[b].amax(), norms(X[None])[0] / norms(X).amax())


def test_a_token_too_long_for_float32():
    """Columns may be short where weights are small, and rows be long."""
    x = X.clone()[None]
    x[0, 3] = 1e19
    x[0, 4] = 1.5e19
    weights = torch.ones(1, 10)
    weights[0, 3:5] = 1e-30
    V, size = unit_columns_norms(x, weights)
    assert V.isfinite().all()
    assert size.isfinite().all()
    assert size[0].argsort(descending=True)[:2].tolist() == [4, 3]


def test_zero_rows_and_columns_stay_zero():
    x = X.clone()
    x[2], x[:, 1] = 0, 0
    assert unit_rows(x[None])[0, 2].eq(0).all()
    assert unit_columns(x[None])[0, :, 1].eq(0).all()
    assert unit_rows(torch.zeros(1, 3, 2)).eq(0).all()
    assert unit_columns(torch.zeros(1, 3, 2)).eq(0).all()


def test_a_column_that_only_weightless_tokens_have_is_no_column():
    x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [5.0, 7.0]]])
    assert unit_columns(x, torch.tensor([[1.5, 1.5, 0.0]]))[0, :, 1].eq(0).all()
