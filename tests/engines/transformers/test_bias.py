"""Key bias against literal copies of keys."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention

from otprune import UnsupportedError
from otprune.engines.transformers.bias import as_features, as_mask, bias_of_keys


def states(seed: int, keys: int, q: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries of 4 heads, keys and values of 2, and copies of each key, `(2, keys)`."""
    g = torch.Generator().manual_seed(seed)
    query = torch.randn(2, 4, q, 16, generator=g)
    key, value = torch.randn(2, 2, 2, keys, 16, generator=g)
    return query, key, value, torch.randint(1, 9, (2, keys), generator=g)


def by_copies(query: Tensor, key: Tensor, value: Tensor, seen: Tensor, times: Tensor) -> Tensor:
    """Attention with literal copies of keys, `(B, heads, q, d)`; `seen` is the mask `(q, keys)`."""
    rows = []
    for b, n in enumerate(times):
        at = torch.arange(len(n)).repeat_interleave(n)
        k, v = (x[b : b + 1, :, at].repeat_interleave(2, dim=1) for x in (key, value))
        rows.append(attention(query[b : b + 1], k, v, attn_mask=seen[:, at]))
    return torch.cat(rows)


KINDS = st.sampled_from(["none", "bool", "add"])


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 5), KINDS)
def test_bias_in_the_mask_equals_copies_of_keys(seed: int, keys: int, new: int, kind: str) -> None:
    q = keys if kind == "none" else min(keys, new)
    query, key, value, times = states(seed, keys, q)
    seen = torch.ones(q, keys, dtype=torch.bool).tril(keys - q)
    masks = {"none": None, "bool": seen[None, None]}
    masks["add"] = torch.zeros(1, 1, q, keys).masked_fill(~seen, torch.finfo(torch.float32).min)
    mask = as_mask(masks[kind], times.log(), query, causal=True)
    got = attention(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(got, by_copies(query, key, value, seen, times), rtol=0, atol=2e-6)


@given(st.integers(0, 99), st.integers(1, 12), st.floats(0.05, 2))
def test_bias_in_features_equals_bias_in_the_mask(seed: int, keys: int, scaling: float) -> None:
    query, key, value, times = states(seed, keys, keys)
    more = as_features(query, key, times.log(), scaling)
    got = attention(*more, value, is_causal=True, scale=scaling, enable_gqa=True)
    mask = as_mask(None, times.log(), query, causal=True)
    wanted = attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
    torch.testing.assert_close(got, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("scaling", [64**-0.5, 256**-0.5, 1.0])
def test_bias_in_features_is_exact_in_half_precision(dtype: torch.dtype, scaling: float) -> None:
    """Kernels multiply in half precision and accumulate in float32."""
    bias = torch.logspace(0, 4, 64)[None].log()
    query, key = torch.zeros(1, 4, 3, 16, dtype=dtype), torch.zeros(1, 2, 64, 16, dtype=dtype)
    longer_query, longer_key = as_features(query, key, bias, scaling)
    assert longer_query.shape[-1] == longer_key.shape[-1] == 24
    assert longer_query.dtype == longer_key.dtype == dtype
    logits = scaling * longer_query[:, :2].float() @ longer_key.float().mT
    torch.testing.assert_close(logits, bias[:, None, None].expand_as(logits), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_hidden_keys_stay_hidden_in_half_precision(dtype: torch.dtype) -> None:
    least = torch.finfo(dtype).min
    query = torch.zeros(1, 1, 2, 8, dtype=dtype)
    for bias in (torch.tensor([[50.0, 0.0]]), torch.tensor([[-87.0, 0.0]])):
        for mask in (torch.eye(2).bool(), torch.where(torch.eye(2).bool(), 0.0, least).to(dtype)):
            made = as_mask(mask[None, None], bias, query, causal=True)
            assert made.dtype == dtype
            assert bool(made.isfinite().all())
            assert torch.equal(made.float().softmax(-1)[0, 0], torch.eye(2))


def test_a_mask_over_other_keys_is_refused() -> None:
    """As one over all tokens in a layer that keeps those of a sliding window."""
    bias, query = torch.zeros(1, 3), torch.zeros(1, 1, 2, 8)
    for mask in (torch.ones(1, 1, 2, 4).bool(), torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 2)):
        with pytest.raises(UnsupportedError, match=f"3 keys under a mask of {mask.shape[-1]} col"):
            as_mask(mask, bias, query, causal=True)


LEAST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("low", [None, float("-inf"), LEAST, -1e9])
def test_gradients_with_fully_masked_queries_equal_plain_attention(low: float | None) -> None:
    """By a boolean mask, and by additive ones."""
    query, key, value = (
        torch.randn(1, 1, 6, 8, generator=torch.Generator().manual_seed(i)).requires_grad_()
        for i in range(3)
    )
    seen = torch.ones(6, 6).tril().bool() & (torch.arange(6) >= 2)
    given = seen if low is None else torch.zeros(6, 6).masked_fill(~seen, low)
    mask = as_mask(given[None, None], torch.arange(6.0)[None], query, causal=True)
    plain = (query @ key.mT / 8**0.5 + mask).softmax(dim=-1) @ value
    sdpa = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    wanted, found = (
        torch.autograd.grad(out.square().sum(), (query, key, value)) for out in (plain, sdpa)
    )
    torch.testing.assert_close(found, wanted)


def test_bias_of_keys_in_every_kind_of_cache() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert torch.equal(bias_of_keys(rows, 2, 3, 0), rows)
    assert bias_of_keys(rows, 2, 2, 0).tolist() == [[1, 2], [4, 5]]  # a first chunk of the prompt
    assert bias_of_keys(rows, 2, 5, 0).tolist() == [[1, 2, 3, 0, 0], [4, 5, 6, 0, 0]]
    assert bias_of_keys(rows, 2, 8, 5).tolist()[0] == [1, 2, 3, 0, 0, 0, 0, 0]  # a static cache
    assert bias_of_keys(rows, 2, 3, 5).tolist() == [[3, 0, 0], [6, 0, 0]]  # a window over 5 tokens
    assert bias_of_keys(rows, 2, 3, 9).tolist() == [[0, 0, 0], [0, 0, 0]]  # far behind the prompt
    assert bias_of_keys(rows, 4, 1, 0).tolist() == [[1], [1], [4], [4]]  # two beams each
    for batch in (1, 3):
        with pytest.raises(UnsupportedError, match=f"to 2 sequences, attention has {batch}"):
            bias_of_keys(rows, batch, 3, 0)


def test_no_mask_means_full_attention_unless_causal() -> None:
    bias = torch.tensor([[1.0, 2.0]])
    assert as_mask(None, bias, torch.zeros(1, 1, 1, 8), causal=True).tolist() == [[[[1, 2]]]]
    both = as_mask(None, bias, torch.zeros(1, 1, 3, 8), causal=False)
    assert both.tolist() == [[[[1, 2]] * 3]]
    with pytest.raises(UnsupportedError, match="from 3 to 2 tokens without a mask"):
        as_mask(None, bias, torch.zeros(1, 1, 3, 8), causal=True)
