"""What changed in its place, at a bounded rate."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune import DTD, FixedCameraSelector, OTPruneError, StreamSelector, TokenError
from otprune.streaming.novelty import NOISE
from tests.random_tokens import random_tokens
from tests.streaming.test_field import lists, turned


def novelty_of(degrees):
    return 1 - float(torch.tensor(degrees).deg2rad().cos()) ** 2 / (1 + NOISE)


def test_by_hand():
    """Against what was kept last in the place: two turns of 10 degrees are one of 20."""
    stream = FixedCameraSelector(2, novelty=novelty_of(19))
    pushed = [
        turned(0, 0, 0, 0),
        turned(10, 25, 0, 0),
        turned(20, 25, 0, 0),
        turned(30, 25, 180, 0),  # the opposite is as new as can be
    ]
    assert lists(map(stream.push, pushed)) == [[0, 1, 2, 3], [1], [0], [2]]


def test_what_moves_on_is_kept_in_its_new_place_and_where_it_was():
    """Where a StreamSelector knows both: an object of one token moves over a table."""
    table, thing = random_tokens(2, 24).unbind()
    frames = table.repeat(6, 6, 1)
    for t in range(6):
        frames[t, t] = thing
    fixed, anywhere = FixedCameraSelector(3), StreamSelector(3)
    assert lists(map(fixed.push, frames)) == [list(range(6)), *([t - 1, t] for t in range(1, 6))]
    assert sum(len(anywhere.push(frame)) for frame in frames) == 2


def test_slow_motion_is_kept_where_dtd_never_sees_it():
    frames = [turned(5.0 * t, 0) for t in range(12)]
    fixed, dtd = FixedCameraSelector(1, novelty=0.1), DTD(0.95)
    assert sum(len(dtd.push(frame)) for frame in frames) == 2
    kept = lists(map(fixed.push, frames))[1:]
    assert {i for one in kept for i in one} == {0}
    # In no frame is the token farther than 20 degrees from the one that was kept last.
    last = 0
    for t, one in enumerate(kept, start=1):
        last = t if one else last
        assert 5 * (t - last) <= 20


@given(
    rate=st.floats(0.3, 12),
    floor=st.integers(0, 3),
    ceiling=st.none() | st.integers(3, 12),
    frames=st.floats(1, 10),
    seed=st.integers(0, 100),
)
def test_never_more_than_the_bucket_gives(rate, floor, ceiling, frames, seed):
    floor, burst = min(floor, int(rate)), max(1.0, frames * rate)
    stream = FixedCameraSelector(rate, floor=floor, ceiling=ceiling, burst=burst)
    first, *later = random_tokens(12, 9, 40, seed=seed)
    assert len(stream.push(first)) == 9
    total = 0
    for t, frame in enumerate(later, start=1):
        n = len(stream.push(frame))
        assert floor <= n <= (ceiling or 9)
        total += n
        assert total <= burst + rate * t


def test_the_most_changed_come_first():
    stream = FixedCameraSelector(2, burst=2)
    stream.push(turned(0, 0, 0, 0, 0))
    assert stream.push(turned(40, 90, 50, 80, 60)).tolist() == [1, 3]


def test_a_place_that_stays_is_kept_again_when_it_is_forgotten():
    still = random_tokens(5, 8)
    never, fading = FixedCameraSelector(2), FixedCameraSelector(2, half_life=2)
    assert [len(never.push(still)) for _ in range(40)] == [5] + [0] * 39
    again = [len(fading.push(still)) for _ in range(40)]
    assert again[1:4] == [0] * 3  # a copy is worth 0.05 first after five frames
    assert sum(again[4:]) > 10


def test_what_was_forgotten_is_new_again():
    still = random_tokens(6, 8)
    stream = FixedCameraSelector(2)
    with pytest.raises(TokenError, match="no frame was pushed"):
        stream.forget(still)
    stream.push(still)
    stream.forget(still)  # the last frame's are in their places
    assert len(stream.push(still)) == 0
    stream.forget(3 * still[[1, 4]])
    assert stream.push(still).tolist() == [1, 4]
    stream.forget(random_tokens(3, 8, seed=1))  # of no place
    assert len(stream.push(still)) == 0
    for wrong in (still[:, :7], still[0], still + torch.inf):
        with pytest.raises(TokenError):
            stream.forget(wrong)


@pytest.mark.parametrize("wrong", [{"rate": 0}, {"rate": 4, "novelty": 1}, {"rate": 4, "floor": 5}])
def test_settings_are_checked(wrong):
    with pytest.raises(OTPruneError):
        FixedCameraSelector(**wrong)
