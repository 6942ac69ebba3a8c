"""Attention with masses is attention with literal copies, in each part for itself."""

import pytest
import torch

from otprune.engines.vllm.attention import attend, parts_of


def heads(n, rows=1, seed=0, count=4):
    """Queries, or keys, of random tokens `(rows, n, count, 8)`."""
    return torch.randn(rows, n, count, 8, generator=torch.Generator().manual_seed(seed))


def softmax(query, key, value, scale):
    """`(n, h, d)` each, in float64."""
    query, key, value = (x.double() for x in (query, key, value))
    weights = torch.softmax(scale * torch.einsum("qhd,khd->hqk", query, key), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, value)


def test_a_mass_stands_for_copies():
    query, key, value = heads(5, 2, 0), heads(5, 2, 1), heads(5, 2, 2)
    times = torch.tensor([[1, 2, 3, 1, 1], [4, 1, 1, 1, 2]])
    made = attend(query, key, value, times.log(), 0.3)
    for row in range(2):
        copied = (x[row].repeat_interleave(times[row], dim=0) for x in (key, value))
        torch.testing.assert_close(made[row], softmax(query[row], *copied, 0.3).float())


def test_parts_see_themselves_alone():
    lengths = torch.tensor([3, 1, 3, 2])
    query, key, value = heads(9, 1, 0), heads(9, 1, 1), heads(9, 1, 2)
    log_mass = torch.rand(1, 9, generator=torch.Generator().manual_seed(3))
    made = attend(query, key, value, log_mass, 0.3, parts_of(lengths))
    for some in torch.arange(9).split(lengths.tolist()):
        alone = attend(*(x[:, some] for x in (query, key, value, log_mass)), 0.3)
        torch.testing.assert_close(made[:, some], alone)


def test_parts_of_one_length_are_one_batch():
    made = parts_of(torch.tensor([2, 1, 2]))
    assert [some.tolist() for some in made] == [[[2]], [[0, 1], [3, 4]]]


def test_keys_that_several_heads_share():
    query, key, value = heads(5), heads(5, seed=1, count=2), heads(5, seed=2, count=2)
    log_mass = torch.rand(1, 5)
    made = attend(query, key, value, log_mass, 0.3)
    every = (x.repeat_interleave(2, dim=2) for x in (key, value))
    torch.testing.assert_close(made, attend(query, *every, log_mass, 0.3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    query, key, value = (heads(5, seed=seed).to(dtype) for seed in range(3))
    log_mass = torch.tensor([[0.0, 1.0, 2.0, 0.0, 3.0]])
    made = attend(query, key, value, log_mass, 0.3)
    assert made.dtype == dtype
    right = attend(query.float(), key.float(), value.float(), log_mass, 0.3)
    torch.testing.assert_close(made.float(), right, atol=0.02, rtol=0.02)
