"""Placeholders and positions of a pruned prompt."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otprune.engines.vllm.prompt import (
    Place,
    full_prompt,
    grid_offsets,
    run_lengths,
    shifted,
    shorten,
    with_offsets,
    without_offsets,
)


@given(st.lists(st.integers(0, 5), min_size=1), st.data())
def test_shortening_keeps_text_and_k_placeholders_of_each_run(lengths, data):
    """One run for an image; for a video with text between its frames, one for each."""
    lengths = [n for n in lengths if n]
    is_token = [own for n in lengths for own in (False, *[True] * n)]
    ids = [9 if own else -i - 1 for i, own in enumerate(is_token)]
    assert run_lengths(is_token) == lengths
    most = min(lengths, default=1)
    k = data.draw(st.integers(1, most))
    short = shorten(ids, is_token, k)
    assert [t for t in short if t != 9] == [t for t in ids if t != 9]
    assert run_lengths([t == 9 for t in short]) == [k] * len(lengths)
    assert shorten(ids, is_token, max(lengths, default=1)) == ids


@st.composite
def prompts(draw):
    """Shortened ids of text and sets of tokens, and the places of the sets."""
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
    text = [i for i in range(len(ids)) if not any(p.offset <= i < p.offset + p.k for p in places)]
    for i in text:
        assert shifted(i, places) == columns[i]
    for place in places:
        start = shifted(place.offset, places)
        assert full[start : start + place.m] == [9] * place.m
        assert columns[place.offset : place.offset + place.k].tolist() == [start] * place.k


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.data())
def test_offsets_in_a_grid_are_its_indices(frames, height, width, data):
    m = frames * height * width
    indices = torch.tensor(data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=8)))
    time, row, column = grid_offsets(indices, height, width, 1.0)
    assert torch.equal((time * height + row) * width + column, indices)
    assert bool((row < height).all())
    assert bool((column < width).all())


def test_time_is_cut_off_to_whole_steps():
    """As in Qwen2.5-VL, where a frame is so many seconds and a second so many steps."""
    time, _, _ = grid_offsets(torch.arange(4), 1, 1, 2.5)
    assert time.tolist() == [0, 2, 5, 7]
    time, _, _ = grid_offsets(torch.tensor([41]), 1, 1, 1 / 41)
    assert time.tolist() == [1]  # in float32 it would be 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@given(data=st.data())
def test_offsets_survive_any_dtype(dtype, data):
    number = st.integers(0, 32767)
    at = data.draw(st.lists(st.tuples(number, number, number), min_size=1, max_size=8))
    offsets = torch.tensor(at).T
    features = torch.randn(len(at), 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    sent = with_offsets(features, offsets)
    assert sent.dtype == dtype
    back, received = without_offsets(sent)
    assert torch.equal(back, features)
    assert torch.equal(received, offsets)
