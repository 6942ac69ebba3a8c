"""How much of an image each question is about."""

import math

import pytest
import torch

from otprune.measures.relevance import TEMPERATURE, relevance
from tests.random_tokens import random_tokens


def test_two_tokens_by_hand():
    """Two orthogonal tokens, one text token along the first: cosines 1 and 0."""
    tokens = torch.tensor([[[3.0, 0.0], [0.0, 5.0]]])
    first = 1 / (1 + math.exp(-1 / TEMPERATURE))
    found = relevance(tokens, torch.tensor([[[2.0, 0.0]]]))
    torch.testing.assert_close(found, torch.tensor([[2 * first, 2 * (1 - first)]]))


def test_neighbours_ask_for_what_has_both():
    """ "blue star" asks for the token with both directions; with a word between them, hardly."""
    blue, star, other = torch.eye(3)
    tokens = torch.stack([blue, star, blue + star, other])[None]
    together = relevance(tokens, torch.stack([blue, star])[None])
    apart = relevance(tokens, torch.stack([blue, other, star])[None])
    assert together[0, 2] > 1 > 10 * apart[0, 2]


def test_a_text_token_that_tells_nothing_apart_does_not_count():
    tokens = torch.tensor([[[1.0, 0.2, 0.0], [1.0, 0.0, 0.2], [1.0, -0.2, 0.0]]])
    sharp, flat = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    alone = relevance(tokens, sharp[None, None])
    # The pair of both is a third row, of the same order of tokens.
    with_flat = relevance(tokens, torch.stack([flat, sharp])[None])
    assert alone.argsort().equal(with_flat.argsort())
    assert relevance(tokens, flat[None, None]).sub(1).abs().max() < 0.05


@pytest.mark.parametrize("n", [0, 1, 5])
def test_mean_is_one_and_directions_alone_matter(n):
    tokens = random_tokens(2, 30, 8)
    question = random_tokens(2, 5, 8, seed=1)[:, :n]
    found = relevance(tokens, question)
    torch.testing.assert_close(found.mean(dim=-1), torch.ones(2))
    scales = torch.rand(2, 30, 1) + 0.5
    torch.testing.assert_close(relevance(tokens * scales, question * 7), found)
    if n == 0:
        assert found.equal(torch.ones(2, 30))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_tokens_that_are_all_alike(value):
    tokens = torch.full((1, 6, 4), value)
    assert relevance(tokens, random_tokens(1, 3, 4)).equal(torch.ones(1, 6))
