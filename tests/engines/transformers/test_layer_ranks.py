"""The ranks of a layer stage, against what eager attention of the whole model says, written out."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, softmax
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from otprune import GridPrune, LayerStage, prune
from otprune.engines.transformers.deep_ranks import attention_score, dart, highest, raters
from tests.engines.transformers.deeper import deeper
from tests.families.base import IMAGE
from tests.families.reference import entering
from tests.families.tiny import FAMILIES

ALL = GridPrune(1.0)
NAMES = ("llava", "qwen2_5_vl", "internvl", "paligemma")
pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture
def no_grad():
    with torch.no_grad():
        yield


def whole(name, inputs):
    """What the model computes without pruning, with eager attention."""
    if not name.startswith("qwen"):  # the norm of a rotated key depends on its position
        places = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
        inputs = inputs | {"position_ids": places}
    return deeper(name, "eager")(**inputs, output_attentions=True, output_hidden_states=True)


def images_of(inputs, row):
    return (inputs["input_ids"][row] == IMAGE).nonzero()[:, 0].tolist()


def check(name, inputs, stage, scores):
    """The cut holds the visual tokens of highest score, given as one list a row."""
    with prune(deeper(name), ALL, layers=stage) as run:
        deeper(name)(**inputs)
    (cut,) = run.layers
    assert run.columns.shape == inputs["input_ids"].shape
    for row, score in enumerate(scores):
        visual = images_of(inputs, row)
        best = sorted(visual, key=lambda j: -float(score[j]))[: cut.kept[row]]
        held = [j for j in cut.columns[row].tolist() if j in visual]
        assert held == sorted(best)
        text = inputs["attention_mask"][row].nonzero()[:, 0].tolist()
        assert set(text) - set(visual) <= set(cut.columns[row].tolist())


@pytest.mark.parametrize("name", NAMES)
def test_fastv_reads_the_layer_before_the_cut(name):
    inputs = FAMILIES[name].inputs((1, 2))
    attention = whole(name, inputs).attentions[1].mean(dim=1)[:, -1]
    check(name, inputs, LayerStage(2, 0.3), attention)


@pytest.mark.parametrize("name", NAMES)
def test_pyramiddrop_reads_the_layer_behind_the_cut(name):
    inputs = FAMILIES[name].inputs((1, 2))
    attention = whole(name, inputs).attentions[2].mean(dim=1)[:, -1]
    check(name, inputs, LayerStage(2, 0.3, "pyramiddrop"), attention)


@pytest.mark.parametrize("name", NAMES)
def test_sparsevlm_reads_the_words_that_fit(name):
    inputs = FAMILIES[name].inputs((1, 2))
    embeds = entering(deeper(name), inputs)["inputs_embeds"]
    attention, scores = whole(name, inputs).attentions[1].mean(dim=1), []
    for row in range(2):
        visual = images_of(inputs, row)
        words = range(visual[-1] + 1, embeds.shape[1])
        fit = softmax(embeds[row, visual] @ embeds[row, list(words)].T, dim=1).mean(dim=0)
        rates = [word for word, x in zip(words, fit, strict=True) if x > fit.mean()]
        assert 0 < len(rates) < len(words)
        scores.append(attention[row, rates].mean(dim=0))
    check(name, inputs, LayerStage(2, 0.3, "sparsevlm"), scores)


def dart_by_hand(norms, hidden, visual, text, number):
    """The tokens that DART keeps, given as indices, like `visual` and `text`."""
    kept = sorted(visual, key=lambda j: -float(norms[j]))[:4]
    pivots = kept + sorted(text, key=lambda j: -float(norms[j]))[:4]
    each = [(number - 4) // 8 + (i < (number - 4) % 8) for i in range(8)]
    for pivot, n in zip(pivots, each, strict=True):
        cosine = cosine_similarity(hidden, hidden[pivot][None], dim=1)
        left = [j for j in visual if j not in kept]
        kept = kept + sorted(left, key=lambda j: float(cosine[j]))[:n]
    assert len(kept) == number
    return sorted(kept)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_dart_takes_the_least_similar_to_its_pivots(name):
    model, inputs = deeper(name, "eager"), FAMILIES[name].inputs((1, 2))
    out = whole(name, inputs)
    hidden = model.get_decoder().norm(out.hidden_states[2])
    norms = out.past_key_values.layers[1].keys.abs().sum(dim=(1, 3))
    for row, number in enumerate((7, 11)):
        visual = images_of(inputs, row)
        text = list(range(visual[-1] + 1, norms.shape[1]))
        kept = dart_by_hand(norms[row], hidden[row], visual, text, number)
        with prune(deeper(name), ALL, layers=LayerStage(2, number, "dart")) as run:
            deeper(name)(**inputs)
        assert [j for j in run.layers[0].columns[row].tolist() if j in visual] == kept


def test_a_second_cut_of_dart():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((2, 1))
    with prune(model, ALL, layers=LayerStage((1, 3), (0.75, 9), "dart")) as run:
        out = model(**inputs, output_hidden_states=True)
    hidden = model.get_decoder().norm(out.hidden_states[3])
    first, second = run.layers
    for row in range(2):
        visual = images_of(inputs, row)
        norms = torch.zeros(hidden.shape[1])
        there = first.columns[row] >= 0
        held = first.columns[row][there].tolist()
        norms[held] = out.past_key_values.layers[2].keys.abs().sum(dim=(1, 3))[row, there]
        text = list(range(visual[-1] + 1, hidden.shape[1]))
        kept = dart_by_hand(norms, hidden[row], [j for j in visual if j in held], text, 9)
        assert [j for j in second.columns[row].tolist() if j in visual] == kept


def test_a_second_cut_ranks_what_the_first_one_kept():
    model, inputs = deeper("llava"), FAMILIES["llava"].inputs((2, 1))
    stage = LayerStage((1, 3), (0.5, 4), "pyramiddrop")
    with prune(model, ALL, layers=stage) as run:
        states = model(**inputs, output_hidden_states=True).hidden_states
    first, second = run.layers
    layer = model.get_decoder().layers[3]
    places = inputs["attention_mask"].cumsum(dim=1) - 1
    for row in range(2):
        held = [j for j in first.columns[row].tolist() if j >= 0]
        hidden = layer.input_layernorm(states[3][row, held])
        query, key = (
            project(hidden).view(1, len(held), -1, 8).transpose(1, 2)
            for project in (layer.self_attn.q_proj, layer.self_attn.k_proj)
        )
        angles = model.get_decoder().rotary_emb(hidden[None], places[row, held][None])
        query, key = apply_rotary_pos_emb(query, key, *angles)
        logits = query[0, :, -1:] @ key[0].repeat_interleave(2, dim=0).transpose(1, 2) / 8**0.5
        score = dict(zip(held, softmax(logits, dim=-1).mean(dim=0)[0].tolist(), strict=True))
        visual = [j for j in held if j in images_of(inputs, row)]
        best = sorted(visual, key=lambda j: -score[j])[:4]
        assert [j for j in second.columns[row].tolist() if j in visual] == sorted(best)


# -- the functions --------------------------------------------------------------------------------


def test_attention_takes_masks_scaling_and_softcap():
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    valid = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0]]).bool()
    rows, weights = torch.tensor([[4, 2], [3, 0]]), torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    got = attention_score(query, key, None, valid, rows, weights, 0.7, 2.0)
    logits = query @ key.repeat_interleave(2, dim=1).transpose(2, 3) * 0.7
    logits = 2 * torch.tanh(logits / 2)
    seen = torch.ones(5, 5).tril().bool() & valid[:, None, None]
    full = logits.masked_fill(~seen, float("-inf")).softmax(dim=-1).mean(dim=1)
    torch.testing.assert_close(got[0], 0.25 * full[0, 4] + 0.75 * full[0, 2])
    torch.testing.assert_close(got[1], full[1, 3])
    # The same mask as the attention function may get it.
    for mask in (seen, torch.zeros(seen.shape).masked_fill(~seen, torch.finfo().min)):
        again = attention_score(query, key, mask, valid, rows, weights, 0.7, 2.0)
        torch.testing.assert_close(again, got)


def test_of_equal_tokens_the_first_stay():
    visual = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]]).bool()
    score = torch.tensor([[9.0, 1, 2, 1, 1, 9], [float("nan"), 1, 1, 5, 5, 1]])
    chosen = highest(score, visual, [3, 2])
    assert chosen.long().tolist() == [[0, 1, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0]]
    assert highest(score, visual, [0, 4]).sum(dim=1).tolist() == [0, 4]


def test_dart_keeps_exactly_what_is_asked_for():
    torch.manual_seed(0)
    norms, hidden = torch.rand(20), torch.randn(20, 6)
    visual = torch.arange(20) < 12
    for text in (torch.arange(20) > 14, torch.zeros(20).bool()):
        for number in range(13):
            kept = dart(norms, hidden, visual, text, number).tolist()
            assert len(kept) == len(set(kept)) == number
            assert all(j < 12 for j in kept)


def test_words_that_rate():
    embeds = torch.tensor([[1.0, 0], [2.0, 0], [0, 1], [3, 0], [0, 2]])
    visual, text = torch.arange(5) < 2, torch.arange(5) > 1
    assert raters(embeds, visual, text).tolist() == [3]
    assert raters(embeds, visual, torch.arange(5) == 4).tolist() == [4]  # nothing is above itself
    assert raters(embeds, torch.zeros(5).bool(), text).tolist() == [2, 3, 4]
