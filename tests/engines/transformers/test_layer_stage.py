"""Pruning inside the language model: equal to the whole model with hidden keys, in every call."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import otprune
from otprune import (
    GridPrune,
    LayerStage,
    OTPruneError,
    RandomPrune,
    Settings,
    UnsupportedError,
    prune,
)
from tests.engines.transformers.deeper import deeper
from tests.engines.transformers.kept import kept_columns
from tests.engines.transformers.test_conversation import longer, without_images
from tests.families.base import IMAGE, VIDEO
from tests.families.reference import reference_logits
from tests.families.tiny import FAMILIES

TOLERANCE = 1e-4  # of logits, from the whole model with hidden keys

FULL = sorted(set(FAMILIES) - {"gemma3"})  # without sliding windows
RANKS = ("fastv", "pyramiddrop", "dart", "vtw", "sparsevlm")
ALL = GridPrune(1.0)
GREEDY = {
    "max_new_tokens": 3,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
}
pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def stage_of(rank, several=True):
    after = (1, 3) if several else 2
    keep = {True: (0.5, 3), False: 0.4}[several]
    return LayerStage(after, None if rank == "vtw" else keep, rank)


def unseen(run, inputs):
    """Of each cut, its layer and the `(B, S)` prompt tokens that layers behind it lack."""
    found = []
    for cut in run.layers:
        columns = run.columns.gather(1, cut.columns.clamp(min=0))
        lacks = torch.ones(inputs["input_ids"].shape, dtype=torch.bool)
        for row, there in enumerate(cut.columns >= 0):
            lacks[row, columns[row][there]] = False
        found.append((cut.layer, lacks))
    return found


def expected(model, inputs, run, answer, positions="preserved"):
    keep = kept_columns(inputs, run.last)
    return reference_logits(model, inputs, keep, positions, answer, hidden=unseen(run, inputs))


def text_of(inputs, keep):
    """`(B, S)` bool: the kept tokens that are text."""
    visual = (inputs["input_ids"] == IMAGE) | (inputs["input_ids"] == VIDEO)
    return keep & ~visual


def check_logits(model, inputs, logits, run, positions="preserved"):
    """The logits of `model(**inputs)` at text."""
    keep = kept_columns(inputs, run.last)
    nothing = torch.zeros(len(keep), 0, dtype=torch.long)
    for row, logit in enumerate(expected(model, inputs, run, nothing, positions=positions)):
        at = run.columns[row][(run.columns[row] >= 0)]
        valid = inputs["attention_mask"][row, at].bool()
        got = logits[row][run.columns[row] >= 0][valid]
        text = text_of(inputs, keep)[row, keep[row]]
        torch.testing.assert_close(got[text], logit[text], rtol=0, atol=TOLERANCE)


def check_answer(model, inputs, out, run, positions="preserved"):
    """The logits of each step of generate()."""
    width = inputs["input_ids"].shape[1]
    answer = out.sequences[:, width:-1]
    for row, logit in enumerate(expected(model, inputs, run, answer, positions=positions)):
        got = torch.stack([step[row] for step in out.logits])
        torch.testing.assert_close(got, logit[-len(got) :], rtol=0, atol=TOLERANCE)


CASES = [(name, "sdpa", "fastv") for name in FULL if name not in ("llava", "qwen2_5_vl")]
CASES += [
    (name, attention, rank)
    for name in ("llava", "qwen2_5_vl")
    for attention in ("sdpa", "eager")
    for rank in RANKS
]


@pytest.mark.parametrize(("name", "attention", "rank"), CASES)
def test_equal_to_the_whole_model_with_hidden_keys(name, attention, rank):
    model, inputs = deeper(name, attention), FAMILIES[name].inputs((1, 2, 0))
    with prune(model, RandomPrune(0.7), "preserved", layers=stage_of(rank)) as run:
        logits = model(**inputs).logits
        assert logits.shape[:2] == run.columns.shape
        entered = torch.zeros(3, dtype=torch.long)
        for item in run.last:
            entered[item.row] += item.after
        first, second = run.layers
        assert (first.layer, second.layer) == (1, 3)
        if rank == "vtw":
            assert first.kept.tolist() == second.kept.tolist() == [0, 0, 0]
        else:
            assert first.kept.tolist() == [
                otprune.count(0.5, m) if m else 0 for m in entered.tolist()
            ]
            assert second.kept.tolist() == [3, 3, 0]
    check_logits(model, inputs, logits, run)
    with prune(model, RandomPrune(0.7), "preserved", layers=stage_of(rank)) as run:
        out = model.generate(**inputs, **GREEDY)
    check_answer(model, inputs, out, run)
    held = [layer.keys.shape[2] for layer in out.past_key_values.layers]
    n = [run.columns.shape[1], *(cut.columns.shape[1] for cut in run.layers)]
    assert held == [n[0] + 2, n[1] + 2, n[1] + 2, n[2] + 2]


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_keep_everything_changes_no_bit(name):
    model, inputs = deeper(name), FAMILIES[name].inputs((1, 2, 0))
    plain = model(**inputs, output_hidden_states=True)
    answer = model.generate(**inputs, **GREEDY)
    stage = LayerStage((1, 2), (1.0, 1.0))
    with prune(model, ALL, layers=stage) as run:
        out = model(**inputs, output_hidden_states=True)
        again = model.generate(**inputs, **GREEDY)
    assert torch.equal(out.logits, plain.logits)
    assert all(map(torch.equal, out.hidden_states, plain.hidden_states))
    assert torch.equal(again.sequences, answer.sequences)
    assert all(map(torch.equal, again.logits, answer.logits))
    assert run.layers == []


@pytest.mark.parametrize("rank", RANKS)
def test_a_prompt_is_pruned_alike_in_any_batch(rank):
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((2, 1))
    with prune(model, ALL, layers=stage_of(rank)) as run:
        together = model.generate(**inputs, **GREEDY)
        cuts = run.layers
        for row, pixels in ((0, slice(0, 2)), (1, slice(2, 3))):
            there = inputs["attention_mask"][row].bool()
            alone = {
                "input_ids": inputs["input_ids"][row, there][None],
                "attention_mask": inputs["attention_mask"][row, there][None],
                "pixel_values": inputs["pixel_values"][pixels],
            }
            out = model.generate(**alone, **GREEDY)
            shift = int((~there).sum())
            for cut, one in zip(cuts, run.layers, strict=True):
                columns = cut.columns[row][cut.columns[row] >= 0] - shift
                assert torch.equal(columns, one.columns[0])
            assert torch.equal(out.sequences[0, -3:], together.sequences[row, -3:])
            for a, b in zip(out.logits, together.logits, strict=True):
                torch.testing.assert_close(a[0], b[row], rtol=0, atol=TOLERANCE)


def test_dropped_tokens_keep_the_hidden_state_of_the_cut():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    with prune(model, ALL, layers=LayerStage(2, 0.5)) as run:
        states = model(**inputs, output_hidden_states=True).hidden_states
    (cut,) = run.layers
    for row in range(2):
        visual = (inputs["input_ids"][row] == IMAGE).nonzero()[:, 0]
        gone = [x for x in visual.tolist() if x not in cut.columns[row].tolist()]
        assert len(gone) == len(visual) // 2
        assert torch.equal(states[3][row, gone], states[2][row, gone])
        stayed = [x for x in cut.columns[row].tolist() if x >= 0]
        assert (states[3][row, stayed] != states[2][row, stayed]).any(dim=1).all()


@pytest.mark.parametrize("positions", ["preserved", "compact"])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_the_next_turn_on_the_cache(name, positions):
    model, inputs = deeper(name), FAMILIES[name].inputs((1, 2, 0))
    with prune(model, RandomPrune(0.6), positions, layers=stage_of("fastv")) as run:
        first = model.generate(**inputs, **GREEDY)
        report = SimpleNamespace(last=run.last, columns=run.columns, layers=run.layers)
        ids = torch.cat([first.sequences, torch.tensor([[50, 51, 52]]).expand(3, -1)], dim=1)
        whole = longer(inputs, ids)
        second = model.generate(
            **without_images(whole), past_key_values=first.past_key_values, **GREEDY
        )
        assert run.layers == []
    answer = second.sequences[:, inputs["input_ids"].shape[1] : -1]
    for row, logit in enumerate(expected(model, inputs, report, answer, positions=positions)):
        got = torch.stack([step[row] for step in second.logits])
        torch.testing.assert_close(got, logit[-3:], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_decoding_by_hand(name):
    model, inputs = deeper(name), FAMILIES[name].inputs((1, 2, 0))
    with prune(model, RandomPrune(0.6), "preserved", layers=stage_of("pyramiddrop")) as run:
        out = model(**inputs)
        answer = torch.empty(3, 0, dtype=torch.long)
        for _ in range(2):
            answer = torch.cat([answer, out.logits[:, -1:].argmax(dim=-1)], dim=1)
            out = model(input_ids=answer[:, -1:], past_key_values=out.past_key_values)
        # Two tokens at once, after a part of the answer was taken back.
        out.past_key_values.crop(-1)
        new = torch.cat([answer[:, -1:], torch.full((3, 1), 60)], dim=1)
        out = model(input_ids=new, past_key_values=out.past_key_values)
    answer = torch.cat([answer, new[:, 1:]], dim=1)
    for row, logit in enumerate(expected(model, inputs, run, answer)):
        torch.testing.assert_close(out.logits[row], logit[-2:], rtol=0, atol=TOLERANCE)


def test_rows_of_a_cache_that_are_repeated_and_chosen():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    with prune(model, ALL, layers=stage_of("fastv")) as run:
        out = model(**inputs)
        first = out.logits[:, -1:].argmax(dim=-1)
        out.past_key_values.batch_repeat_interleave(2)  # rows 0, 0, 1, 1
        out.past_key_values.batch_select_indices(torch.tensor([2, 0, 3]))
        rows = torch.tensor([1, 0, 1])
        out = model(input_ids=first[rows], past_key_values=out.past_key_values)
    logits = expected(model, inputs, run, first)
    for got, row in zip(out.logits, rows.tolist(), strict=True):
        torch.testing.assert_close(got, logits[row][-1:], rtol=0, atol=TOLERANCE)


def test_videos():
    model = deeper("qwen3_vl")
    inputs = FAMILIES["qwen3_vl"].inputs((1, 0), video=True)
    with prune(model, RandomPrune(0.7), layers=stage_of("fastv")) as run:
        out = model.generate(**inputs, **GREEDY)
    check_answer(model, inputs, out, run)


@pytest.mark.parametrize("rank", ["fastv", "sparsevlm"])
def test_without_a_cache_the_choice_is_made_once(rank):
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2, 0))
    with prune(model, ALL, layers=stage_of(rank)):
        cached = model.generate(**inputs, **GREEDY)
        fresh = model.generate(**inputs, **GREEDY, use_cache=False)
    assert torch.equal(cached.sequences, fresh.sequences)
    for a, b in zip(cached.logits, fresh.logits, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=TOLERANCE)


def test_a_batch_whose_rows_hold_different_numbers_without_padding():
    """The model gets no mask then, and the layers behind the cut need one."""
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((2, 0))
    short = int(inputs["attention_mask"][1].sum())
    ids = inputs["input_ids"].clone()
    ids[1, :-short] = 70
    inputs = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for attention in ("sdpa", "eager"):
        model = deeper("llava", attention)
        with prune(model, ALL, layers=LayerStage(2, 0.5)) as run:
            out = model.generate(**inputs, **GREEDY)
        assert run.layers[0].kept.tolist() == [16, 0]
        check_answer(model, inputs, out, run)
    with prune(model, ALL, layers=LayerStage(2, 0.5)) as run:
        out = model.generate(**{k: x for k, x in inputs.items() if k != "attention_mask"}, **GREEDY)
    check_answer(model, inputs, out, run)


def test_padding_on_the_right():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((2, 1))
    pad = int((inputs["attention_mask"][1] == 0).sum())
    right = dict(inputs)
    for name in ("input_ids", "attention_mask"):
        right[name] = inputs[name].clone()
        right[name][1] = inputs[name][1].roll(-pad)
    with prune(model, ALL, layers=stage_of("fastv")) as run:
        logits = model(**right).logits
    check_logits(model, right, logits, run)


def test_a_visual_token_that_ends_the_prompt_stays():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1,))
    end = (inputs["input_ids"] == IMAGE).nonzero()[-1, 1] + 1
    inputs = inputs | {name: inputs[name][:, :end] for name in ("input_ids", "attention_mask")}
    with prune(model, ALL, layers=LayerStage(rank="vtw", after=2)) as run:
        out = model.generate(**inputs, **GREEDY)
    assert run.layers[0].kept.tolist() == [0]
    assert run.layers[0].columns[0, -1] == end - 1
    keep, answer = inputs["attention_mask"].bool(), out.sequences[:, end:-1]
    hidden = unseen(run, inputs)
    (logit,) = reference_logits(model, inputs, keep, "preserved", answer, hidden=hidden)
    got = torch.cat(out.logits)
    torch.testing.assert_close(got, logit[-len(got) :], rtol=0, atol=TOLERANCE)


def test_logits_of_the_callers_columns():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    settings = {"layers": LayerStage(2, 0.5), "positions": "preserved"}
    with prune(model, RandomPrune(0.5), **settings) as run:
        short = model(**inputs).logits
        columns = run.columns
    with prune(model, RandomPrune(0.5), logits="full", **settings):
        full = model(**inputs).logits
        last = model(**inputs, logits_to_keep=1).logits
    assert full.shape[:2] == inputs["input_ids"].shape
    for row in range(2):
        there = columns[row] >= 0
        assert torch.equal(full[row, columns[row][there]], short[row][there])
    torch.testing.assert_close(last[:, 0], full[:, -1])


def test_gradients_flow_through_the_kept_tokens():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
    with torch.enable_grad(), prune(model, ALL, layers=stage_of("fastv")):
        loss = model(**inputs, labels=labels).loss
        weights = [layer.mlp.up_proj.weight for layer in model.get_decoder().layers]
        slopes = torch.autograd.grad(loss, weights)
    assert all(bool(slope.isfinite().all()) and float(slope.norm()) > 0 for slope in slopes)


def test_text_alone_is_untouched():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((0, 0))
    plain = model(**inputs).logits
    with prune(model, ALL, layers=stage_of("fastv")) as run:
        assert torch.equal(model(**inputs).logits, plain)
    assert run.layers == []


def test_other_threads_and_later_calls_are_unaffected():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    layers = model.get_decoder().layers
    plain, seen = model(**inputs).logits, []

    def call():
        with torch.no_grad():
            seen.append(model(**inputs).logits)

    hook = layers[2].register_forward_pre_hook(lambda *_: _in_a_thread(call, seen))
    try:
        with prune(model, ALL, layers=LayerStage(2, 0.5)):
            pruned = model(**inputs).logits
    finally:
        hook.remove()
    assert not torch.allclose(pruned, plain, atol=1e-3)
    assert len(seen) == 1
    assert torch.equal(seen[0], plain)
    assert torch.equal(model(**inputs).logits, plain)
    assert not [layer for layer in layers if "forward" in vars(layer)]


def _in_a_thread(call, seen):
    if not seen:
        seen.append(None)
        thread = Thread(target=call)
        thread.start()
        thread.join()
        del seen[0]


def test_a_call_inside_a_pruned_one_is_its_own():
    """As a criterion that asks the same model would make it."""
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    plain, seen = model(**inputs).logits, []

    def call(*_):
        if not seen:
            seen.append(None)
            seen[0] = model(**inputs, otprune=None).logits

    hook = model.get_decoder().layers[3].register_forward_pre_hook(call)
    try:
        with prune(model, ALL, layers=LayerStage(2, 0.5)) as run:
            logits = model(**inputs).logits
    finally:
        hook.remove()
    assert torch.equal(seen[0], plain)
    check_logits(model, inputs, logits, run)


def test_positions_of_a_whole_prompt_are_as_they_were():
    model, inputs = deeper("qwen2_5_vl"), FAMILIES["qwen2_5_vl"].inputs((1, 2))
    with prune(model, ALL, positions="compact", layers=LayerStage(2, 0.5)) as run:
        logits = model(**inputs).logits
    assert run.positions == "preserved"
    check_logits(model, inputs, logits, run, positions="preserved")


def test_settings_and_models_can_be_copied_and_pickled():
    settings = Settings(ALL, layers=stage_of("dart"))
    assert pickle.loads(pickle.dumps(settings)) == settings
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    otprune.enable(model, settings)
    try:
        ours = model.generate(**inputs, **GREEDY)
        theirs = copy.deepcopy(model).generate(**inputs, **GREEDY)
        again = model.generate(**inputs, **GREEDY, otprune=settings)
    finally:
        otprune.disable(model)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(ours.sequences, again.sequences)


def test_a_failed_call_leaves_nothing_behind():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    layers = model.get_decoder().layers

    def fail(*_):
        raise KeyboardInterrupt

    hook = layers[3].register_forward_pre_hook(fail)
    try:
        with pytest.raises(KeyboardInterrupt), prune(model, ALL, layers=LayerStage(2, 0.5)) as run:
            model(**inputs)
    finally:
        hook.remove()
    assert run.layers == []
    assert not [layer for layer in layers if "forward" in vars(layer)]


# -- refused -------------------------------------------------------------------------------------


def test_settings_that_are_refused():
    for more in ({"mass": "token"}, {"distance": True}, {"distance": "auto"}):
        with pytest.raises(UnsupportedError, match="layers= with mass or distance"):
            Settings(ALL, layers=LayerStage(), **more)
    with pytest.raises(OTPruneError, match=r"layers=0.5: expected otprune.LayerStage"):
        Settings(ALL, layers=0.5)
    with pytest.raises(OTPruneError, match="more arguments besides"):
        prune(deeper("llava"), Settings(ALL), layers=LayerStage())


def test_models_that_are_refused(build):
    with pytest.raises(UnsupportedError, match="sliding_attention"):
        prune(build("gemma3"), ALL, layers=LayerStage(1, 0.5))
    with pytest.raises(OTPruneError, match="the language model has 4"):
        prune(deeper("llava"), ALL, layers=LayerStage(4, 0.5))
    model = copy.deepcopy(deeper("llava"))
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(UnsupportedError, match="gradient checkpointing"):
        prune(model, ALL, layers=LayerStage(2, 0.5))


def test_a_model_that_runs_its_layers_again_is_refused(monkeypatch):
    model, inputs = copy.deepcopy(deeper("llava")), FAMILIES["llava"].inputs((1, 2))
    decoder = model.get_decoder()
    again = partial(checkpoint, decoder.forward, use_reentrant=False)
    monkeypatch.setattr(decoder, "forward", again)
    model.requires_grad_(True)
    with (
        torch.enable_grad(),
        prune(model, ALL, layers=LayerStage(2, 0.5)),
        pytest.raises(UnsupportedError, match="activation checkpointing"),
    ):
        model(**inputs)


def test_a_model_that_leaves_layers_out_is_refused(monkeypatch):
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 2))
    monkeypatch.setattr(model.get_decoder().config, "num_hidden_layers", 2)
    said = "did not call the layers behind every cut"
    with prune(model, ALL, layers=LayerStage(3, 0.5)), pytest.raises(UnsupportedError, match=said):
        model(**inputs)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"num_beams": 2}, "num_beams=2 with a layer stage"),
        ({"num_return_sequences": 2, "do_sample": True}, "num_return_sequences=2"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens"),
        ({"prefill_chunk_size": 4}, "prefill_chunk_size"),
        ({"cache_implementation": "static"}, "a cache of Static"),
    ],
)
def test_calls_that_are_refused(more, said):
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1, 1))
    with prune(model, ALL, layers=LayerStage(2, 0.5)):
        with pytest.raises(UnsupportedError, match=said):
            model.generate(**inputs, max_new_tokens=2, **more)
        model.generate(**inputs, max_new_tokens=2)


def test_a_cache_goes_on_in_a_block_alone():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((1,))
    with prune(model, ALL, layers=LayerStage(2, 0.5)):
        out = model(**inputs)
        ids = torch.cat([inputs["input_ids"], torch.tensor([[50]])], dim=1)
        whole = without_images(longer(inputs, ids))
        with pytest.raises(UnsupportedError, match="num_beams"):
            model.generate(**whole, past_key_values=out.past_key_values, num_beams=2)
        with pytest.raises(UnsupportedError, match="not pruned"):
            model(input_ids=torch.tensor([[50]]), past_key_values=out.past_key_values, otprune=None)
