"""Placeholders and positions of a pruned prompt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.engines.vllm.prompt import (
    Place,
    full_prompt,
    shifted,
    shorten,
    with_offsets,
    without_offsets,
)


@given(st.lists(st.booleans(), min_size=1), st.data())
def test_shortening_keeps_text_and_k_placeholders(is_token, data):
    m = sum(is_token)
    k = data.draw(st.integers(0, m))
    ids = [9 if own else -i - 1 for i, own in enumerate(is_token)]
    short = shorten(ids, is_token, k)
    assert [t for t in short if t != 9] == [t for t in ids if t != 9]
    assert short.count(9) == k
    assert shorten(ids, is_token, m) == ids


@st.composite
def prompts(draw):
    """Shortened ids of text and pictures, and the places of the pictures."""
    ids, places = [], []
    for _ in range(draw(st.integers(0, 4))):
        ids += draw(st.lists(st.integers(0, 7), max_size=4))
        k = draw(st.integers(1, 5))
        places.append(Place(len(ids), k, k + draw(st.integers(0, 5))))
        ids += [9] * k
    return ids + draw(st.lists(st.integers(0, 7), max_size=4)), places


@given(prompts())
def test_the_full_prompt_holds_the_shortened_one(prompt):
    ids, places = prompt
    full, columns = full_prompt(ids, places)
    assert len(full) == len(ids) + sum(p.m - p.k for p in places)
    assert [full[c] for c in columns.tolist()] == list(ids)
    assert bool((columns.diff() > 0).all())
    text = [i for i in range(len(ids)) if not any(p.offset <= i < p.offset + p.k for p in places)]
    for i in text:
        assert shifted(i, places) == columns[i]
    for place in places:
        start = shifted(place.offset, places)
        assert full[start : start + place.m] == [9] * place.m
        # the last of the kept ones is the last of all: what follows is placed behind the whole
        assert columns[place.offset + place.k - 1] == start + place.m - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(data=st.data())
def test_offsets_survive_any_dtype(dtype, data):
    width = data.draw(st.integers(1, 16000))
    grid = st.tuples(st.integers(0, 16000), st.integers(0, width - 1))
    at = data.draw(st.lists(grid, min_size=1, max_size=8))
    indices = torch.tensor([row * width + column for row, column in at])
    features = torch.randn(len(at), 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    back, offsets, known = without_offsets(with_offsets(features, indices, width))
    assert back.dtype == dtype
    assert torch.equal(back, features)
    assert offsets.T.tolist() == [list(x) for x in at]
    assert known.all()


def test_a_whole_item_says_that_its_positions_are_known():
    features = torch.ones(4, 2, dtype=torch.bfloat16)
    back, _, known = without_offsets(with_offsets(features, None, 1))
    assert torch.equal(back, features)
    assert not known.any()
