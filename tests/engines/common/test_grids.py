"""Blocks, packed grids and windows of an encoder's sequence."""

import torch

from otprune.engines.common.grids import (
    blocks,
    frames_of,
    images_of,
    packed,
    places_of,
    window_order,
)


def test_blocks_of_a_grid():
    assert blocks(2, 4, 2).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert places_of(2, 4, 2).tolist() == [[0, 0], [0, 1]]
    assert blocks(3, 2, 2).tolist() == [[0], [1], [2], [3], [4], [5]], "none fit: single tokens"


def test_packed_grids_follow_each_other():
    one, other = packed([(1, 2), (2, 2)], 1)
    assert one.tolist() == [[0], [1]]
    assert other.tolist() == [[2], [3], [4], [5]]


def test_windows_in_raster_order_smaller_at_the_edges():
    order = window_order(3, 5, 2)
    grid = torch.arange(15).view(3, 5)
    windows = [grid[a : a + 2, b : b + 2].flatten() for a in (0, 2) for b in (0, 2, 4)]
    assert torch.equal(order, torch.cat(windows))


def test_images_behind_special_tokens():
    layout = images_of(2, 1, 2, 1, first=1)
    assert [some.tolist() for some in layout.units] == [[[1], [2]], [[4], [5]]]
    assert layout.special.tolist() == [0, 3]


def test_frames_whose_sequence_is_ordered_by_windows():
    grids = [(4, 6), (2, 2)]
    plain, ordered = frames_of(grids, 2, None), frames_of(grids, 2, 2)
    assert torch.equal(plain.units[0], torch.arange(24).view(6, 4))
    # Blocks 0 1 | 2 over 3 4 | 5: the sequence holds 0 1 3 4, then 2 5, then the second frame.
    assert (ordered.units[0][:, 0] // 4).tolist() == [0, 1, 4, 2, 3, 5]
    assert ordered.units[1].tolist() == [[24, 25, 26, 27]]
    assert [len(places) for places in ordered.places] == [6, 1]
