"""A bias as features of keys: exact in every dtype."""

import pytest
import torch

from otprune.engines.common.key_features import PIECES, join, split


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_pieces_sum_to_the_number_in_half_precision_too(dtype):
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 100
    x[:3] = torch.tensor([0.0, 576.0, 576.0]).clamp(min=1).log()
    pieces = split(x).to(dtype)
    assert pieces.shape == (1000, PIECES)
    torch.testing.assert_close(join(pieces), x, rtol=2**-22, atol=0)
