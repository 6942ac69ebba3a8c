"""What all selectors of streams have in common."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

import otprune
from otprune import (
    DTD,
    CueError,
    FixedCameraSelector,
    FrameSelector,
    OTPruneError,
    StaticPatches,
    StreamSelector,
    TokenError,
    UniformStream,
    streaming,
)
from tests.random_tokens import random_tokens

MAKE = {
    "stream": lambda: StreamSelector(4),
    "fixed camera": lambda: FixedCameraSelector(4, half_life=9),
    "dtd": lambda: DTD(0.9),
    "static patches": lambda: StaticPatches(0.9, share=0.5),
    "uniform": lambda: UniformStream(2.5),
}
OTHER = {
    "stream": StreamSelector(5),
    "fixed camera": FixedCameraSelector(4),
    "dtd": DTD(0.8),
    "static patches": StaticPatches(0.9, share=0.6),
    "uniform": UniformStream(2),
}
each = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


def frames(t=8, m=20, d=16):
    """A still scene of which another half is drawn anew in every frame."""
    scene = random_tokens(m, d).repeat(t, 1, 1)
    for i in range(1, t):
        scene[i, i % 2 :: 2] = random_tokens(m // 2, d, seed=i)
    return scene


def push(selector, frame):
    """With pixels where they are needed: the tokens themselves."""
    return selector.push(frame, **dict.fromkeys(selector.needs, frame))


def test_those_exported_are_such():
    exported = {name for name in streaming.__all__ if hasattr(getattr(streaming, name), "push")}
    assert exported - {"FrameSelector"} == {type(make()).__name__ for make in MAKE.values()}
    assert set(streaming.__all__) <= set(otprune.__all__)
    for make in MAKE.values():
        assert isinstance(make(), FrameSelector)
    assert not isinstance(otprune.GridPrune(0.5), FrameSelector)


@each
def test_indices_ascend_and_are_the_same_for_any_dtype(make):
    one, other = make(), make()
    for frame in frames():
        kept = push(one, frame)
        assert kept.dtype == torch.int64
        assert (kept.diff() > 0).all()
        assert not len(kept) or 0 <= kept[0] <= kept[-1] < len(frame)
        assert torch.equal(push(other, frame.double().numpy()), kept)


@each
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_a_saved_state_goes_on_bit_by_bit(make, cut):
    whole, first, again = make(), make(), make()
    wanted = [push(whole, frame) for frame in frames()]
    for frame in frames()[:cut]:
        push(first, frame)
    again.load_state_dict(load(save(first.state_dict())))
    copied = pickle.loads(pickle.dumps(first))
    for frame, indices in zip(frames()[cut:], wanted[cut:], strict=True):
        assert torch.equal(push(again, frame), indices)
        assert torch.equal(push(copied, frame), indices)


@pytest.mark.parametrize("name", MAKE)
def test_another_selectors_state_is_refused(name):
    for other in (OTHER[name].state_dict(), {}):
        with pytest.raises(OTPruneError, match="other settings"):
            MAKE[name]().load_state_dict(other)


@each
def test_a_frame_that_is_refused_changes_nothing(make):
    one, other = make(), make()
    first, second = frames()[:2]
    assert torch.equal(push(one, first), push(other, first))
    for wrong in (torch.zeros(2, 3, 16), torch.full((3, 16), torch.nan), [[1.0]], first.long()):
        with pytest.raises(TokenError):
            push(one, wrong)
    if not one.needs:
        with pytest.raises(TokenError, match="another encoder"):
            push(one, first[:, :15])
    assert torch.equal(push(one, second), push(other, second))


@each
def test_patches_are_given_where_they_are_needed_and_nowhere_else(make):
    frame = frames()[0]
    one, other = make(), make()
    if one.needs:
        with pytest.raises(CueError, match="patches are missing"):
            one.push(frame)
        for wrong in (
            frame[:-1],
            frame[:, :0],
            frame.flatten(),
            frame.bool(),
            frame + torch.inf,
            "pixels",
        ):
            with pytest.raises(CueError, match="patches"):
                one.push(frame, patches=wrong)
    else:
        with pytest.raises(CueError, match="from tokens alone"):
            one.push(frame, patches=frame)
    assert torch.equal(push(one, frame), push(other, frame))


@each
def test_frames_of_another_size_are_as_first_ones(make):
    """After it the new size is compared with itself."""
    one, small = make(), frames(m=10)[0]
    push(one, frames()[0])
    kept = push(one, small)
    if isinstance(one, (DTD, StaticPatches, FixedCameraSelector)):
        assert kept.tolist() == list(range(10))
        assert len(push(one, small)) < 10


def test_pixels_may_be_bytes():
    frame = frames()[0]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 12), np.uint8)
    kept = []
    for cast in (lambda x: x, torch.from_numpy, lambda x: x.astype(np.float64) / 255):
        stream = StaticPatches()
        stream.push(frame, patches=cast(pixels[0]))
        mixed = pixels[0].copy()
        mixed[[2, 7]] = pixels[1][[2, 7]]
        kept.append(stream.push(frame, patches=cast(mixed)[::1]).tolist())
    # 11 of 20 may be reused, so that 9 are kept: both changed ones, and the last of equal ones.
    assert all({2, 7} <= set(one) and len(one) == 9 for one in kept)


@pytest.mark.parametrize("stream", [StreamSelector(4), DTD(), FixedCameraSelector(4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_state_in_another_number_format_is_refused(stream, dtype):
    """A model's `half()` or a checkpoint's conversion may have turned it."""
    stream.push(random_tokens(1, 12, 8)[0])
    state = stream.state_dict()
    turned = {
        name: x.to(dtype) if name in ("rows", "gram", "ages") and x.is_floating_point() else x
        for name, x in state.items()
    }
    with pytest.raises(OTPruneError, match=r"rows of the state is .*: expected torch.float32"):
        stream.load_state_dict(turned)
    stream.load_state_dict(state)


@pytest.mark.parametrize("kind", [StreamSelector, FixedCameraSelector])
def test_a_rate_of_less_than_a_token_saves_up_for_one(kind):
    stream = kind(0.1)
    assert stream.burst == 1.0
    first, *frames = random_tokens(21, 12, 8)
    stream.push(first)  # of a camera that stands still it is kept whole
    kept = sum(len(stream.push(frame)) for frame in frames)
    assert 0 < kept <= 1 + 0.1 * 20
