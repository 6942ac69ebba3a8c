"""Frame in, kept tokens out."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from otprune import OTPruneError, StreamSelector, TokenError, select_video
from otprune.numerics.normalize import unit_rows
from otprune.streaming.novelty import NOISE, value
from tests.random_tokens import random_tokens


def video(scenes=3, still=5, m=20, d=32, noise=0.03):
    """Scenes that stand still but for noise, with cuts between them."""
    held = random_tokens(scenes, m, d).repeat_interleave(still, 0)
    return held + noise * random_tokens(*held.shape, seed=7)


def run(stream, frames):
    return [stream.push(frame) for frame in frames]


def sizes(kept):
    return [len(i) for i in kept]


def equal(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_still_scene_saves_and_a_cut_spends():
    kept = run(StreamSelector(4), video(still=6, d=128))
    for scene in range(0, 18, 6):
        first, *later = sizes(kept)[scene : scene + 6]
        assert first >= 8  # twice the rate
        assert sum(later) < first  # what a price after the cut was too high for
        assert later[-2:] == [0, 0]
    assert all(i.dtype == torch.int64 and (i.diff() > 0).all() for i in kept)


@given(
    rate=st.floats(0.3, 12),
    floor=st.integers(0, 3),
    ceiling=st.none() | st.integers(3, 12),
    frames=st.floats(1, 10),
    seed=st.integers(0, 100),
)
def test_never_more_than_the_bucket_gives(rate, floor, ceiling, frames, seed):
    floor = min(floor, int(rate))
    burst = max(1.0, frames * rate)
    stream = StreamSelector(rate, floor=floor, ceiling=ceiling, burst=burst)
    total = 0
    for t, frame in enumerate(random_tokens(12, 9, 40, seed=seed), start=1):
        n = len(stream.push(frame))
        assert floor <= n <= (ceiling or 9)
        total += n
        assert total <= burst + rate * t


def test_news_without_end_is_kept_at_the_rate():
    g = torch.Generator().manual_seed(0)
    stream = StreamSelector(3, half_life=2, rank=32)
    kept = sizes(run(stream, torch.randn(120, 16, 256, generator=g)))
    assert sum(kept[60:]) / 60 == pytest.approx(3, abs=0.1)
    assert max(kept[60:]) <= 4


def test_nearly_as_good_as_with_all_frames_at_hand():
    frames = video(scenes=4, still=4, m=30)
    points = unit_rows(frames)
    kept = run(StreamSelector(4), frames)
    joint = select_video(frames, sum(sizes(kept)))
    own, best = (
        value(torch.cat([p[i] for p, i in zip(points, found, strict=True)]))
        for found in (kept, joint)
    )
    assert own > 0.9 * best


@pytest.mark.parametrize("half_life", [None, 4])
def test_a_saved_state_goes_on_bit_by_bit(half_life):
    frames = video(scenes=6, m=24, noise=0.3)
    whole, first = (StreamSelector(3, rank=8, half_life=half_life) for _ in range(2))
    wanted = run(whole, frames)
    assert sum(sizes(wanted)) > 24  # the sketch has shrunk by then
    head = run(first, frames[:14])
    again = StreamSelector(3, rank=8, half_life=half_life)
    again.load_state_dict(load(save(first.state_dict())))
    copied = pickle.loads(pickle.dumps(first))
    assert equal(head + run(again, frames[14:]), wanted)
    assert equal(head + run(copied, frames[14:]), wanted)
    fresh = StreamSelector(3, rank=8, half_life=half_life)
    fresh.load_state_dict(StreamSelector(3, rank=8, half_life=half_life).state_dict())
    assert equal(run(fresh, frames), wanted)


def test_a_state_is_a_copy():
    stream = StreamSelector(3)
    stream.push(video()[0])
    state = stream.state_dict()
    before = state["rows"].clone()
    stream.push(video()[5])
    assert torch.equal(state["rows"], before)


def test_another_streams_state_is_refused():
    with pytest.raises(OTPruneError, match="other settings"):
        StreamSelector(3).load_state_dict(StreamSelector(4).state_dict())
    with pytest.raises(OTPruneError, match="other settings"):
        StreamSelector(3).load_state_dict({})


def test_memory_is_bounded():
    stream = StreamSelector(6, rank=16, half_life=3)
    largest = 0
    for frame in torch.randn(80, 12, 64, generator=torch.Generator().manual_seed(1)):
        stream.push(frame)
        largest = max(largest, sum(x.numel() for x in stream.state_dict().values()))
    assert largest <= 20 * 64 + 20 * 20 + 9


def test_a_scene_that_stays_is_shown_again_when_it_is_forgotten():
    still = video(scenes=1, still=60, noise=0)
    never, fading = StreamSelector(8), StreamSelector(8, half_life=4)
    assert sum(sizes(run(never, still))[1:]) == 0
    again = sizes(run(fading, still))
    assert sum(again[10:35]) > 0
    assert again.count(0) > 20


def test_floor_and_ceiling():
    still = video(scenes=1, still=6)
    assert sizes(run(StreamSelector(4, floor=2), still))[1:] == [2] * 5
    assert sizes(run(StreamSelector(4, floor=2), [still[0], still[1, :1]]))[1] == 1
    assert sizes(run(StreamSelector(4, ceiling=3), still))[0] == 3
    assert sizes(run(StreamSelector(0.25, burst=1), still))[:4] == [1, 0, 0, 0]


def test_frames():
    stream = StreamSelector(4)
    first = video()[0]
    kept = stream.push(first)
    for same in (first.numpy(), first.double(), first * 1e-20):
        assert torch.equal(StreamSelector(4).push(same), kept)
    for wrong in (torch.zeros(2, 3, 32), torch.full((3, 32), torch.nan), torch.zeros(3, 31)):
        before = stream.state_dict()["numbers"]
        with pytest.raises(TokenError):
            stream.push(wrong)
        assert torch.equal(stream.state_dict()["numbers"], before)
    assert len(stream.push(torch.zeros(3, 32))) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(StreamSelector(4).push(first), kept)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0},
        {"rate": True},
        {"rate": float("nan")},
        {"rate": 4, "floor": 5},
        {"rate": 4, "floor": -1},
        {"rate": 4, "floor": 2, "ceiling": 1},
        {"rate": 4, "burst": 3},
        {"rate": 0.1, "burst": 0.5},
        {"rate": 4, "novelty": 1},
        {"rate": 4, "novelty": 0},
        {"rate": 4, "rank": 0},
        {"rate": 4, "half_life": 0},
    ],
)
def test_settings_are_checked(wrong):
    with pytest.raises(OTPruneError):
        StreamSelector(**wrong)


def test_what_is_forgotten_is_new_again():
    tokens = torch.randn(60, 128, generator=torch.Generator().manual_seed(0))
    stream = StreamSelector(60, novelty=0.05)
    kept = stream.push(tokens)
    stream.forget(tokens[kept[:20]])
    rest = unit_rows(tokens[None])[0][kept[20:]].double()
    points = unit_rows(tokens[None])[0].double()
    ridge = torch.linalg.inv(torch.eye(128).double() + rest.T @ rest / NOISE)
    wanted = (points @ ridge * points).sum(dim=-1)
    _, known = stream._sketch.explain(points.float())
    found = points.square().sum(dim=-1) - known.square().sum(dim=0)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert stream.push(tokens).tolist() == kept[:20].tolist()


def test_forgetting_all_is_a_new_start():
    frames = torch.randn(3, 20, 16, generator=torch.Generator().manual_seed(0))
    stream = StreamSelector(20, burst=1000)
    for frame in (*frames, frames[0]):
        kept = stream.push(frame)
        if len(kept):
            stream.forget(frame[kept])
    assert len(stream._sketch.rows) == 0
    assert (
        stream.push(frames[0]).tolist() == StreamSelector(20, burst=1000).push(frames[0]).tolist()
    )


@pytest.mark.parametrize(
    "tokens", [torch.randn(2, 3), torch.randn(4), torch.full((1, 16), torch.nan)]
)
def test_what_was_never_pushed_cannot_be_forgotten(tokens):
    stream = StreamSelector(4)
    with pytest.raises(TokenError):
        stream.forget(tokens)
    stream.push(torch.randn(20, 16))
    with pytest.raises(TokenError):
        stream.forget(tokens)
