"""What a device would have to wait for, and how often it would be called."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from otprune import Cues, OTPrune
from tests.random_tokens import INFORMED, random_tokens

READS = "item __bool__ __int__ __float__ __index__ tolist cpu numpy nonzero __array__".split()


@pytest.fixture
def nothing_is_read(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the host waits for the device")

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, refuse)


@torch.no_grad()
@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("method", INFORMED.values(), ids=INFORMED)
@pytest.mark.parametrize("shape", [(1, 300, 40), (2, 900, 1000)])
def test_no_tensor_becomes_a_number(method, shape):
    assert method(0.1).pick(random_tokens(*shape), shape[1] // 10, Cues()).shape[0] == shape[0]


def test_reading_is_noticed(nothing_is_read):
    with pytest.raises(AssertionError, match="waits"):
        random_tokens(3, 4).amax().item()


class Count(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def one_thread():
    """Only the calls of the thread that counts are counted."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("common", [0, 3])
@pytest.mark.parametrize(
    ("shape", "rank"),
    [
        ((576, 256), None),
        ((576, 1024), None),
        ((576, 1024), 200),
        ((1500, 128), None),
        ((5, 576, 600), 200),
        ((16, 576, 600), None),
    ],
)
def test_few_calls_on_a_cpu(shape, common, rank):
    """At most 6 a pick and 20 for each set, views included, of a whole call of `select`."""
    tokens = random_tokens(*shape) + common * random_tokens(1, shape[-1], seed=1)
    k = shape[-2] // 10
    with Count() as count:
        OTPrune(k, rank=rank).select(tokens)
    assert count.calls <= (6 * k + 20) * (shape[0] if len(shape) == 3 else 1)
