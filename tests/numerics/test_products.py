"""Large products: all of the matrix, whatever its size and however it lies in memory."""

import pytest
import torch

from otprune.numerics.products import gram
from tests.random_tokens import random_tokens


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("m", [1, 127, 128, 129, 384, 400, 1200, 2049])
def test_gram(m, transposed):
    x = random_tokens(2, m, 5).double()
    if transposed:
        x = x.mT.contiguous().mT
    torch.testing.assert_close(gram(x), x @ x.mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 3])
def test_gram_into_a_part_of_something(batch):
    x = random_tokens(batch, 300, 7)
    room = torch.full((batch + 2, 300, 300), torch.nan)
    assert gram(x, out=room[1:-1]).data_ptr() == room[1].data_ptr()
    torch.testing.assert_close(room[1:-1], x @ x.mT)
    assert room[[0, -1]].isnan().all()
