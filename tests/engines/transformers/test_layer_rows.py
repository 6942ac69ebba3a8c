"""Arguments of a layer behind a cut: masks in every form that attention functions take."""

from __future__ import annotations

import pytest
import torch

from otprune import UnsupportedError
from otprune.engines.transformers.deep_rows import Short, shortened
from otprune.engines.transformers.layout import Layout

# Row 0 keeps 4 of 6 tokens, row 1 only 2 of them; it is filled up in front.
KEEP = torch.tensor([[1, 0, 1, 0, 1, 1], [1, 0, 0, 0, 0, 1]]).bool()
LAYOUT = Layout.packed(KEEP, "left")
EVEN = Layout.packed(KEEP[:1], "left")


def short(layout=LAYOUT, past=0, new=6, flash=False):
    return Short(layout, not bool(layout.valid.all()), past, new, flash)


def mask_of(mask, some):
    return shortened("attention_mask", mask, some, "model")


def held(some):
    """The tokens that each row holds, in the order of the layer's keys, None where filled up."""
    return [[c if c >= 0 else None for c in row] for row in some.layout.columns.tolist()]


def sees(mask, some):
    """For each row and token that the layer holds, the tokens that it sees.

    What fills up sees something, so that its softmax has a term; what that is, is all the same.
    """
    at = held(some)
    assert bool(mask.any(dim=-1).all())
    return [
        [
            [at[b][j] for j in range(len(at[b])) if seen[j]]
            for i, seen in enumerate(rows)
            if some.past or at[b][i] is not None
        ]
        for b, rows in enumerate(mask[:, 0].tolist())
    ]


CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6)
FIRST = [[[0], [0, 2], [0, 2, 4], [0, 2, 4, 5]], [[0], [0, 5]]]


def test_masks_of_a_prompt():
    some = short()
    assert sees(mask_of(CAUSAL, some), some) == FIRST
    lowest = torch.finfo(torch.float32).min
    added = mask_of(torch.zeros(CAUSAL.shape).masked_fill(~CAUSAL, lowest), some)
    assert set(added.unique().tolist()) == {0.0, lowest}
    assert sees(added == 0, some) == FIRST
    assert sees(mask_of(CAUSAL[:1], some), some) == FIRST  # one mask for all rows
    assert sees(mask_of(None, some), some) == FIRST  # none is causal
    hidden = CAUSAL.clone()
    hidden[0, :, :, 2] = False
    assert sees(mask_of(hidden, some), some)[0] == [[0], [0], [0, 4], [0, 4, 5]]


def test_what_fills_up_sees_itself_where_the_prompt_is_padded():
    some = short(Layout.packed(torch.tensor([[1, 1, 1], [0, 0, 1]]).bool(), "left"), new=3)
    causal = torch.ones(3, 3, dtype=torch.bool).tril().expand(2, 1, 3, 3).clone()
    causal[1, :, :, 0] = False
    wanted = [[[0], [0, 1], [0, 1, 2]], [[2]]]
    assert sees(mask_of(causal, some), some) == wanted
    added = mask_of(torch.zeros(causal.shape).masked_fill(~causal, -1e9), some)
    assert sees(added == 0, some) == wanted


def test_masks_of_new_tokens_behind_a_prompt():
    some = short(past=7, new=2)  # one token of the answer is in the cache
    whole = torch.ones(9, 9, dtype=torch.bool).tril()[7:].expand(2, 1, 2, 9)
    wanted = [
        [[0, 2, 4, 5, 6, 7], [0, 2, 4, 5, 6, 7, 8]],
        [[0, 5, 6, 7], [0, 5, 6, 7, 8]],
    ]
    assert sees(mask_of(whole, some), some) == wanted
    assert sees(mask_of(None, some), some) == wanted


def test_no_mask_is_made_where_none_is_needed():
    assert mask_of(None, short(EVEN)) is None
    assert mask_of(None, short(EVEN, past=7, new=1)) is None
    assert mask_of(None, short(EVEN, past=7, new=1, flash=True)) is None


def test_masks_as_flash_attention_takes_them():
    ones = torch.ones(2, 6, dtype=torch.long)
    assert mask_of(ones, short(flash=True)).tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert mask_of(None, short(flash=True)).tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    # Without a mask, flash attention would read gaps in positions as borders.
    assert mask_of(None, short(EVEN, flash=True)).tolist() == [[1, 1, 1, 1]]
    later = short(past=7, new=1, flash=True)
    assert mask_of(None, later).tolist() == [[1] * 6, [0, 0, 1, 1, 1, 1]]
    padded = torch.ones(2, 8, dtype=torch.long)
    padded[0, 0] = 0
    assert mask_of(padded, later).tolist() == [[0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]


def test_layers_share_what_they_share():
    some = short()
    assert mask_of(CAUSAL, some) is mask_of(CAUSAL, some)


def test_positions_and_angles_follow_their_tokens():
    some = short()
    places = torch.stack([torch.arange(6), torch.arange(6) + 10])
    got = shortened("position_ids", places, some, "model")
    assert got[0].tolist() == [0, 2, 4, 5]
    assert got[1, 2:].tolist() == [10, 15]
    axes = torch.stack([places, places + 100, places + 200])
    assert shortened("position_ids", axes, some, "model")[:, 0].tolist() == [
        [0, 2, 4, 5],
        [100, 102, 104, 105],
        [200, 202, 204, 205],
    ]
    cos = places[:1, :, None].expand(1, 6, 3).float()  # one row for all
    (again,) = shortened("position_embeddings", (cos,), some, "model")
    assert again.shape == (2, 4, 3)
    assert again[0, :, 0].tolist() == [0, 2, 4, 5]
    assert again[1, 2:, 0].tolist() == [0, 5]


def test_hidden_states_come_back_whole():
    some, hidden = short(), torch.arange(24.0).view(2, 6, 2)
    got = some.take(hidden)
    assert torch.equal(got[0], hidden[0, KEEP[0]])
    back = some.give_back(-got, hidden)
    assert torch.equal(back, torch.where(KEEP[..., None], -hidden, hidden))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("attention_mask", torch.ones(2, 1, 6, 7)),
        ("attention_mask", torch.ones(2, 6, 6)),
        ("attention_mask", object()),
        ("position_embeddings", (torch.ones(2, 5, 3),)),
        ("position_embeddings", torch.ones(2, 6, 3)),
        ("position_ids", torch.arange(6)),
        ("alibi", torch.ones(2, 6)),
    ],
)
def test_what_is_not_known_is_refused(name, value):
    with pytest.raises(UnsupportedError, match="how to shorten it is not known"):
        shortened(name, value, short(), "model")
