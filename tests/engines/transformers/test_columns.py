"""Columns after the last image keep their index from the end, and `Run.columns` maps the rest."""

from __future__ import annotations

import pytest
import torch

from otprune import RandomPrune, UnsupportedError, prune, prune_inputs
from tests.engines.transformers.kept import TOLERANCE, kept_columns
from tests.engines.transformers.test_forward import right_padded
from tests.families.base import BOS, IMAGE, PAD, images_in
from tests.families.reference import reference_logits
from tests.families.tiny import FAMILIES

CORE = ("llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
SELECTOR = RandomPrune(0.4)
NOTHING = torch.zeros(2, 0, dtype=torch.long)


def two_rows(name):
    """One sequence padded on the left, one on the right, like prompts with completions."""
    family = FAMILIES[name]
    inputs = dict(family.inputs(images=(1, 1)))
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    rows = [row[seen.bool()] for row, seen in zip(ids, mask, strict=True)]
    rows[1] = torch.cat([rows[1], torch.tensor([60, 61, 62, 63])])
    width = max(map(len, rows)) + 3
    front = width - len(rows[1])
    at = [slice(width - 2 - len(rows[0]), width - 2), slice(front, width)]
    for key, value in list(inputs.items()):
        if value.shape != mask.shape:
            continue
        moved = torch.zeros(2, width, dtype=value.dtype)
        for b, row in enumerate(value):
            kept = row[mask[b].bool()]
            moved[b, at[b]][: len(kept)] = kept
        inputs[key] = moved
    for b in range(2):
        inputs["input_ids"][b, at[b]] = rows[b]
        inputs["attention_mask"][b, at[b]] = 1
    assert inputs["attention_mask"][0, -2:].tolist() == [0, 0]
    assert inputs["attention_mask"][:, 0].tolist() == [0, 0]
    return inputs


def wanted_at(model, inputs, items, positions="preserved"):
    """Logits by hand, `{(row, column of the caller's prompt): logits}`."""
    keep = kept_columns(inputs, items)
    rows = reference_logits(model, inputs, keep, positions, NOTHING)
    return {
        (b, int(column)): logits
        for b, row in enumerate(rows)
        for column, logits in zip(keep[b].nonzero()[:, 0], row, strict=True)
    }


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("positions", ["preserved", "compact"])
@torch.no_grad()
def test_the_last_columns_are_the_callers_last(build, name, positions):
    model, inputs = build(name), two_rows(name)
    width = inputs["input_ids"].shape[1]
    with prune(model, SELECTOR, positions=positions) as run:
        logits = model(**inputs, logits_to_keep=5).logits
        listed = model(**inputs, logits_to_keep=torch.tensor([width - 5, -1])).logits
    wanted = wanted_at(model, inputs, run.last, positions)
    for b in range(2):
        for i in range(5):
            if (b, width - 5 + i) in wanted:
                expected = wanted[b, width - 5 + i]
                torch.testing.assert_close(logits[b, i], expected, rtol=0, atol=TOLERANCE)
    assert torch.equal(listed, logits[:, [0, 4]])


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("side", ["left", "right", "both"])
@torch.no_grad()
def test_run_columns_map_to_the_callers_columns(build, name, side):
    model = build(name)
    inputs = {
        "left": lambda: FAMILIES[name].inputs(images=(1, 2)),
        "right": lambda: right_padded(FAMILIES[name].inputs(images=(1, 2))),
        "both": lambda: two_rows(name),
    }[side]()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    with prune(model, SELECTOR, positions="preserved") as run:
        logits = model(**inputs, labels=labels).logits
    assert logits.shape[:2] == run.columns.shape == run.input_ids.shape == run.labels.shape
    wanted, seen = wanted_at(model, inputs, run.last), set()
    for b, row in enumerate(run.columns.tolist()):
        for i, column in enumerate(row):
            if column < 0:
                assert (run.input_ids[b, i], run.labels[b, i]) == (PAD, -100)
                continue
            assert run.input_ids[b, i] == inputs["input_ids"][b, column]
            # No column predicts the label of the first one.
            assert run.labels[b, i] == (labels[b, column] if column else -100)
            if (b, column) in wanted:
                expected = wanted[b, column]
                torch.testing.assert_close(logits[b, i], expected, rtol=0, atol=TOLERANCE)
                seen.add((b, column))
        last = max(int(p.columns[-1]) for p in images_in(inputs["input_ids"]) if p.row == b)
        tail = inputs["input_ids"].shape[1] - 1 - last
        assert row[-tail:] == list(range(last + 1, inputs["input_ids"].shape[1]))
    assert seen == set(wanted)


@pytest.mark.parametrize("name", CORE)
@pytest.mark.parametrize("last", [0, 4, 12, 1000, None])
@torch.no_grad()
def test_full_logits_are_at_the_callers_columns(build, name, last):
    model, inputs = build(name), two_rows(name)
    width = inputs["input_ids"].shape[1]
    last = width - 2 if last == 1000 else last
    more = {} if last is None else {"logits_to_keep": last}
    with prune(model, SELECTOR, positions="preserved", logits="full") as run:
        logits = model(**inputs, **more).logits
        as_tuple = model(**inputs, **more, return_dict=False)
        assert torch.equal(as_tuple[0], logits)
    number = last or width
    assert logits.shape[:2] == (2, number)
    wanted = wanted_at(model, inputs, run.last)
    for b in range(2):
        before = torch.zeros(logits.shape[-1])
        for column in range(width):
            if inputs["attention_mask"][b, column] == 0 and (b, column) not in wanted:
                continue
            before = wanted.get(
                (b, column), before
            )  # a dropped column gets the logits of the last kept one before it
            if column >= width - number:
                got = logits[b, column - width + number]
                torch.testing.assert_close(got, before, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", CORE)
@torch.no_grad()
def test_a_loss_over_full_logits_equals_the_models_loss(build, name):
    model, inputs = build(name), two_rows(name)
    ids = inputs["input_ids"]
    labels = ids.masked_fill((ids >= IMAGE) | (ids == BOS) | (inputs["attention_mask"] == 0), -100)
    with prune(model, SELECTOR, positions="preserved", logits="full"):
        out = model(**inputs, labels=labels)
    loss = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
    )
    torch.testing.assert_close(out.loss, loss, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_keeping_all_tokens_keeps_all_columns(build):
    model, inputs = build("llava"), two_rows("llava")
    expected = model(**inputs, logits_to_keep=7).logits
    for logits in ("short", "full"):
        with prune(model, RandomPrune(1.0), logits=logits) as run:
            assert torch.equal(model(**inputs, logits_to_keep=7).logits, expected)
        assert run.columns.tolist() == [list(range(inputs["input_ids"].shape[1]))] * 2


@torch.no_grad()
def test_logits_to_keep_of_dropped_columns_is_refused(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs(images=(1, 1))
    for asked in (15, torch.tensor([4, -1])):
        with (
            prune(model, SELECTOR, positions="preserved"),
            pytest.raises(UnsupportedError, match="logits='full'"),
        ):
            model(**inputs, logits_to_keep=asked)
        with pytest.raises(UnsupportedError, match="logits='full'"):
            prune_inputs(model, inputs | {"logits_to_keep": asked}, SELECTOR, positions="preserved")
    with prune(model, SELECTOR, positions="preserved", logits="full"):
        whole = model(**inputs).logits
        assert torch.equal(
            model(**inputs, logits_to_keep=torch.tensor([4, -1])).logits[:, 1], whole[:, -1]
        )


# -- packed documents --------------------------------------------------------------------------


def packed(name):
    """Two documents packed into one sequence: positions start again at 0, without a mask."""
    inputs = dict(FAMILIES[name].inputs(images=(2,)))
    ids = inputs["input_ids"]
    second = images_in(ids)[1].columns[0] - 2  # text in front of the second image
    others = {k: v for k, v in inputs.items() if k != "input_ids"}
    return inputs, int(second), others


def documents(name, model):
    inputs, second, others = packed(name)
    ids = inputs["input_ids"]
    places = model._prepare_position_ids_for_generation(ids, others).clone()
    if places.ndim == 2:
        places = places.clone()
        places[:, second:] -= places[:, second : second + 1].clone()
    else:
        places[0, :, second:] -= places[0, :, second : second + 1].clone()
        places[1:, :, second:] -= places[1:, :, second : second + 1].clone()
    del inputs["attention_mask"]
    return inputs | {"position_ids": places}, second


@pytest.mark.parametrize("name", ["llava", "llava_next", "internvl", "mistral3", "qwen2_5_vl"])
@torch.no_grad()
def test_packed_documents_do_not_attend_to_each_other(build, name):
    """The logits of the second document do not depend on the first."""
    model = build(name)
    inputs, second = documents(name, model)
    other = inputs | {"input_ids": inputs["input_ids"].clone()}
    other["input_ids"][:, 1] = 77
    plain = [model(**x, use_cache=False).logits[:, second:] for x in (inputs, other)]
    assert torch.equal(*plain)
    found, n = [], None
    with prune(model, SELECTOR, positions="compact") as run:
        for x in (inputs, other):
            logits = model(**x, use_cache=False).logits
            found.append(logits[:, run.columns[0] >= second])
            n = int((run.columns[0] < second).sum())
        short = prune_inputs(model, inputs, SELECTOR, positions="compact")
    assert torch.equal(*found)
    assert "attention_mask" not in short
    text = short["position_ids"] if short["position_ids"].ndim == 2 else short["position_ids"][0]
    width = short["input_ids"].shape[1]
    assert text.tolist() == [[*range(n), *range(width - n)]]


@torch.no_grad()
def test_packed_documents_without_recognisable_borders_are_refused(build):
    model = build("llava")
    inputs, _ = documents("llava", model)
    with (
        prune(model, SELECTOR, positions="preserved"),
        pytest.raises(UnsupportedError, match="positions='compact'"),
    ):
        model(**inputs)
    with pytest.raises(UnsupportedError, match="positions='compact'"):
        prune_inputs(model, inputs, SELECTOR, positions="preserved")
    lengths = torch.tensor([0, 10, inputs["input_ids"].shape[1]], dtype=torch.int32)
    for name in ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx"):
        with prune(model, SELECTOR), pytest.raises(UnsupportedError, match=name):
            model(**inputs, **{name: lengths})
    qwen = build("qwen2_vl")
    rows, _ = documents("qwen2_vl", qwen)
    with prune(qwen, SELECTOR):  # M-RoPE positions have a separate text index without gaps
        qwen(**rows, use_cache=False)


# -- one number a token ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "argument"),
    [("gemma3", "token_type_ids"), ("qwen2_5_vl", "mm_token_type_ids"), ("llava", "labels")],
)
@torch.no_grad()
def test_an_argument_of_another_width_is_refused(build, name, argument):
    model, inputs = build(name), FAMILIES[name].inputs(images=(1,))
    inputs.setdefault(argument, inputs["input_ids"])
    longer = torch.cat([inputs[argument], inputs[argument][:, -1:]], dim=1)
    with prune(model, SELECTOR):
        with pytest.raises(UnsupportedError, match=f"{argument} has"):
            model(**inputs | {argument: longer})
        cache = model(**inputs).past_key_values
        step = torch.full((1, 1), 40)
        longer = torch.cat([longer, longer[:, -2:]], dim=1)
        with pytest.raises(UnsupportedError, match=f"{argument} has .* for 1 tokens"):
            model(input_ids=step, past_key_values=cache, **{argument: longer})


@torch.no_grad()
def test_added_padding_is_masked_without_a_mask_of_the_caller(build):
    """Images of 16 and 12 tokens without padding: pruning adds some."""
    model = build("qwen2_vl")
    inputs = FAMILIES["qwen2_vl"].inputs(images=(1, 1))
    ids = inputs["input_ids"]
    ids[1][ids[1] == PAD] = 90  # text instead of padding
    mask = torch.ones_like(ids)
    step = torch.full((2, 1), 40)
    with prune(model, SELECTOR):
        a = model(**inputs | {"attention_mask": mask})
        b = model(**{k: v for k, v in inputs.items() if k != "attention_mask"})
        assert torch.equal(a.logits, b.logits)
        longer = torch.cat([mask, torch.ones_like(step)], dim=1)
        a = model(input_ids=step, past_key_values=a.past_key_values, attention_mask=longer)
        b = model(input_ids=step, past_key_values=b.past_key_values)
    assert torch.equal(a.logits, b.logits)
