"""Layouts and positions: pure index arithmetic, checked against loops."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otprune import UnsupportedError
from otprune.engines.transformers.layout import Layout
from otprune.engines.transformers.positions import (
    compact_positions,
    rope_delta,
    scheme_of,
    with_text_index,
)

masks = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 8).flatmap(
        lambda width: st.lists(
            st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows
        )
    )
)


@settings(max_examples=60, deadline=None)
@given(masks, st.sampled_from(["left", "right"]))
def test_kept_columns_stay_in_order_with_least_padding(rows, side):
    keep = torch.tensor(rows)
    layout = Layout.packed(keep, side)
    ids = torch.arange(keep.numel()).view(keep.shape) + 100
    taken = layout.take(ids, 0)
    n = max(sum(row) for row in rows)
    assert taken.shape == (len(rows), n)
    assert layout.dropped == keep.shape[1] - n
    for row, kept in enumerate(rows):
        mine = [int(x) for x, stays in zip(ids[row], kept, strict=True) if stays]
        padding = [0] * (n - len(mine))
        assert taken[row].tolist() == (padding + mine if side == "left" else mine + padding)
    stacked = torch.stack([ids, ids + 1])
    assert torch.equal(layout.take(stacked, 7)[1], layout.take(ids + 1, 7))


def test_a_layout_extended_and_repeated():
    layout = Layout.packed(torch.tensor([[1, 0, 1], [0, 0, 1]]).bool(), "left").extended(5)
    ids = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 23, 24]])
    assert layout.take(ids, 0).tolist() == [[10, 12, 13, 14], [0, 22, 23, 24]]
    again = layout.rows(torch.tensor([0, 0, 1, 1])).take(ids.repeat_interleave(2, 0), 0)
    assert again.tolist() == [[10, 12, 13, 14]] * 2 + [[0, 22, 23, 24]] * 2


def test_compact_positions_count_tokens():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    assert compact_positions(mask, mask).tolist() == [[0, 0, 0, 1], [0, 1, 2, 3]]
    assert compact_positions(mask, torch.zeros(4, 2, 9)).shape == (4, 2, 4)


def test_only_the_text_index_of_mrope_positions_is_compact():
    mask = torch.ones(2, 3).long()
    places = torch.tensor([4, 7, 9]).expand(4, 2, 3)
    assert with_text_index(places, mask)[0].tolist() == [[0, 1, 2]] * 2
    assert with_text_index(places, mask)[1:].eq(places[1:]).all()
    assert torch.equal(with_text_index(places[0], mask), places[0])


@pytest.mark.parametrize("axes", [(), (3,), (4,)])
def test_rope_delta_gives_the_next_position(axes):
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    places = torch.tensor([[0, 2, 5, 8], [0, 1, 2, 6]]).expand(*axes, 2, 4).clone()
    if axes == (4,):
        places[0] = 100  # the text index does not count for M-RoPE
    assert rope_delta(places, mask).tolist() == [[9 - 3], [7 - 4]]


def test_gaps_are_refused_with_flash_attention():
    def model(attention, **forward):
        text = SimpleNamespace(_attn_implementation=attention)
        config = SimpleNamespace(get_text_config=lambda: text)
        return SimpleNamespace(config=config, forward=lambda position_ids=None: None, **forward)

    def scheme(positions, model, full, documents=None, biased=False):
        return scheme_of(positions, model, full, documents, biased)

    flat, rotary, two = torch.zeros(1, 5), torch.zeros(4, 1, 5), torch.tensor([[1, 1, 2, 2, 2]])
    flash, blind = model("flash_attention_2"), model("sdpa")
    blind.forward = lambda input_ids: None
    assert scheme("preserved", model("sdpa"), flat) == "preserved"
    assert scheme("compact", flash, flat) == "compact"
    assert scheme("preserved", flash, rotary) == "preserved"
    with pytest.raises(UnsupportedError, match="flash_attention_2 reads gaps"):
        scheme("preserved", flash, flat)
    assert scheme("compact", blind, flat) == "compact"
    with pytest.raises(UnsupportedError, match="takes no position_ids"):
        scheme("preserved", blind, flat)

    assert scheme("auto", model("sdpa"), flat) == "compact"
    assert scheme("auto", model("sdpa"), flat, biased=True) == "preserved"
    assert scheme("auto", model("sdpa"), rotary) == "preserved"
    assert scheme("auto", model("sdpa"), flat, two, biased=True) == "compact"
    assert scheme("auto", model("sdpa"), rotary, two) == "preserved"
    assert scheme("auto", flash, flat, biased=True) == "compact"
    assert scheme("auto", flash, rotary) == "preserved"
    assert scheme("auto", blind, rotary, biased=True) == "compact"
