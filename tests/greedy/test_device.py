"""What a device is told to do: a fixed sequence of operations, and how long it is.

On the "meta" device, where tensors have shapes and no values: what would look at a value raises.
"""

import pytest
import torch

from otprune import METHODS, DivPrune, DPPPrune, HerdingPrune, OTPrune, TransportPrune
from otprune.greedy import logdet as search
from otprune.greedy.logdet import sequential
from otprune.numerics.lowrank import LowRank
from tests.greedy.operations import Operations
from tests.random_tokens import cues_for, random_tokens


class OnDevice(Operations):
    """Counts, and finds what is made elsewhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            assert tensor.device.type == "meta", f"{func} gives a tensor on the {tensor.device}"
        return out


@torch.no_grad()
def operations(selector, k, *shape):
    cues = cues_for(selector, torch.zeros(shape)).each(lambda x: x.to("meta"))
    with OnDevice() as count:
        order = selector.pick(torch.empty(shape, device="meta"), k, cues)
    assert order.shape == (shape[0], k)
    return count


@pytest.mark.parametrize("method", [c for n, c in METHODS.items() if n != "random"])
@pytest.mark.parametrize("shape", [(1, 300, 40), (2, 300, 400)])
def test_nothing_depends_on_values_and_all_is_on_the_device(method, shape):
    """But for RandomPrune, whose numbers come from the CPU, the same for every device."""
    operations(method(30), 30, *shape)


def test_nor_does_anything_of_projected_tokens():
    operations(OTPrune(30, rank=16), 30, 2, 300, 40)


def test_looking_is_noticed():
    with pytest.raises(RuntimeError):
        bool(torch.empty(3, device="meta").isfinite().all())
    with pytest.raises(AssertionError, match="on the cpu"), OnDevice():
        torch.arange(3)


# A pick's operations, those of them that launch something, and what comes before and after: of the
# method as a whole, its m x m matrix or what it has instead included.
LENGTHS = {
    OTPrune: (11, 11, 70),
    DPPPrune: (11, 11, 54),
    TransportPrune: (22, 21, 81),  # seven of them for every 256 tokens
    HerdingPrune: (12, 11, 87),
    DivPrune: (11, 10, 54),
}


@pytest.mark.parametrize("method", LENGTHS)
@pytest.mark.parametrize("shape", [(1, 576, 256), (16, 576, 256), (1, 576, 1024), (16, 576, 1024)])
def test_how_many_operations(method, shape):
    """No more for sixteen sets than for one."""
    few, many = operations(method(8), 8, *shape), operations(method(64), 64, *shape)
    each, launched, around = LENGTHS[method]
    assert many.all - few.all == (64 - 8) * each
    assert many.launched - few.launched == (64 - 8) * launched
    assert few.all <= each * 8 + around


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_pick_by_pick_under_no_grad_and_inference_mode(mode):
    x = random_tokens(2, 30, 8)
    rank = torch.arange(30).repeat(2, 1)
    wanted = search.greedy(LowRank(x, x), 8, rank, 0.1)
    with mode():
        y = x.clone().requires_grad_()
        assert sequential.greedy(LowRank(y, y), 8, rank, 0.1).equal(wanted)
