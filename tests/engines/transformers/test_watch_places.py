"""Positions of what a session remembers, in numbers worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from otprune.engines.transformers.watching.places import Place, Segment

# A frame of 2 x 3 tokens.
GRID = torch.tensor([[0] * 6, [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2]])


def text(n: int) -> tuple[Segment, Tensor]:
    return Segment(0, -1, n), torch.arange(n).repeat(3, 1)


def video(ticks: int) -> tuple[Segment, Tensor]:
    return Segment(0, 0, 3, ticks), GRID


def test_1d_positions_count_what_is_remembered() -> None:
    place = Place(4)
    positions, place = place.put(Segment(0, 0, 100), torch.tensor([[0, 7, 9]]))
    assert positions.tolist() == [[4, 5, 6]]
    assert place == Place(7)


def test_a_frame_of_its_own_takes_its_length() -> None:
    positions, place = Place(4).put(Segment(0, 0, 3), GRID[:, [1, 5]])
    assert positions.tolist() == [[4, 4], [4, 5], [5, 6]]
    assert place == Place(7)


def test_frames_of_an_open_video_share_height_and_width_and_time_goes_on() -> None:
    _, place = Place().put(*text(4))
    first, place = place.put(*video(20))
    assert first.tolist() == (GRID + 4).tolist()
    assert place.next == 7  # behind the width
    second, place = place.put(*video(21))
    assert second.tolist() == [[5] * 6, (GRID[1] + 4).tolist(), (GRID[2] + 4).tolist()]
    assert place.next == 7
    third, place = place.put(*video(30))
    assert third[0].tolist() == [14] * 6
    assert place.next == 15  # behind the time
    asked, place = place.put(*text(2))
    assert asked.tolist() == [[15, 16]] * 3
    # Text has closed the video; the next has a time of its own.
    fourth, place = place.put(*video(90))
    assert fourth.tolist() == (GRID + 17).tolist()
    assert place == Place(20, base=17, origin=90)


def test_a_frame_that_lost_its_end_still_moves_what_follows() -> None:
    positions, place = Place(4).put(Segment(0, 0, 3, 0), GRID[:, :1])
    assert positions.tolist() == [[4]] * 3
    assert place.next == 7
