"""Both answers, piece by piece, and what the kept tokens stand for."""

import threading
from itertools import pairwise

import pytest
import torch

import otprune
from otprune.asking.models import answer_of, prompt
from otprune.errors import OTPruneError, UnsupportedError
from otprune.page import answering
from otprune.page.answering import answers, measured, pruned_answer
from otprune.page.wanted import Wanted
from otprune.selectors.registry import METHODS

QUESTION = "Is there a red circle?"
LONGEST = 6


def direct(loaded, image, wanted=None):
    """The answer by the library itself."""
    inputs = prompt(loaded, image, QUESTION)

    def generate():
        made = loaded.model.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        return answer_of(loaded, made, inputs["input_ids"].shape[1])

    if wanted is None:
        return generate()
    with otprune.prune(loaded.model, encoder=wanted.stage(), **wanted.pruning()):
        return generate()


def said(loaded, image, wanted):
    return list(answers(loaded, image, QUESTION, wanted, LONGEST))


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(),
        Wanted("recommended", 0.05),
        Wanted("transport", 0.1, merge=True, mass="token", question=0.5),
        Wanted("simplex", 0.2, encoder_keep=0.5),
        Wanted("cdpruner", 0.1),
    ],
    ids=lambda wanted: wanted.method,
)
def test_both_answers_are_those_of_the_library(loaded, image, wanted):
    steps = said(loaded, image, wanted)
    assert steps[-1].full == direct(loaded, image)
    assert steps[-1].pruned == direct(loaded, image, wanted)
    assert steps[-1].pruned == pruned_answer(loaded, image, QUESTION, wanted, LONGEST)[0]
    kept = steps[-1].kept
    assert kept.item.after == round(wanted.keep * 144)
    assert (kept.inside is not None) == (wanted.encoder_keep < 1)


def test_answers_come_in_pieces(loaded, image):
    steps = said(loaded, image, Wanted())
    for name in ("full", "pruned"):
        texts = list(dict.fromkeys(getattr(step, name) for step in steps))
        assert len(texts) > 3
        for shorter, longer in pairwise(texts):
            assert longer.startswith(shorter)
    assert [step.kept for step in steps[:2]] == [None, None]


def test_half_a_character_is_not_shown():
    said, texts = [], iter(["caf\ufffd", "café", "café "])
    streamer = answering._Said(lambda ids, skip_special_tokens: next(texts), said.append)
    for ids in ([[1, 2, 3]], [4], [5], [6]):  # the prompt, then a token each
        streamer.put(torch.tensor(ids))
    assert said == ["café", "café"]


def test_who_leaves_early_stops_both(loaded, image):
    before = threading.active_count()
    pieces = answers(loaded, image, QUESTION, Wanted(), longest=10_000)
    next(pieces)
    pieces.close()  # a fault would be a minute's wait here, and threads that go on
    assert threading.active_count() == before


def test_an_error_of_one_answer_ends_the_other(loaded, image, monkeypatch):
    def fails(*_):
        raise OTPruneError("no")

    monkeypatch.setattr(answering, "only", fails)
    before = threading.active_count()
    with pytest.raises(OTPruneError, match="no"):
        said(loaded, image, Wanted())
    assert threading.active_count() == before


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(keep=1), Wanted(encoder_keep=0.4)], ids=str)
def test_every_token_is_in_one_cell_and_masses_are_its_sizes(loaded, image, wanted):
    _, kept = pruned_answer(loaded, image, QUESTION, wanted, 1)
    cells, item = kept.cells, kept.item
    assert cells.kept.tolist() == item.indices.tolist()
    assert cells.cell[cells.kept].tolist() == list(range(item.after))
    torch.testing.assert_close(cells.counts() / item.before, item.masses, rtol=0, atol=1e-6)


def test_figures_are_those_of_the_selection(loaded, image):
    wanted = Wanted("transport", 0.1)
    _, kept = pruned_answer(loaded, image, QUESTION, wanted, 1)
    found = measured(loaded, image, QUESTION, wanted, kept)
    expected = otprune.TransportPrune(0.1).explain(kept.item.features)
    assert found.free_mass_w2_relative == expected.free_mass_w2_relative
    assert found.certificate == expected.certificate
    staged = Wanted("transport", 0.1, encoder_keep=0.5)
    _, kept = pruned_answer(loaded, image, QUESTION, staged, 1)
    inside = measured(loaded, image, QUESTION, staged, kept)
    assert inside.certificate is None
    assert inside.free_mass_w2_relative > found.free_mass_w2_relative


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_or_says_why_not(loaded, image, method):
    for wanted in (Wanted(method), Wanted(method, encoder_keep=0.5)):
        if wanted.stage() and {"saliency", "keys"} & METHODS[method].needs:
            with pytest.raises(UnsupportedError, match="encoder"):
                pruned_answer(loaded, image, QUESTION, wanted, 1)
        else:
            _, kept = pruned_answer(loaded, image, QUESTION, wanted, 1)
            assert kept.item.after == 14


def test_visitors_at_once_get_what_each_gets_alone(loaded):
    from tests.untrained import scene

    visitors = [
        (scene(seed=1), Wanted("otprune", 0.1)),
        (scene(seed=2), Wanted("random", 0.5, mass="token")),
        (scene(seed=3), Wanted("transport", 0.03, merge=True)),
        (scene(seed=4), Wanted("divprune", 0.2, encoder_keep=0.5)),
    ]

    def visit(image, wanted):
        last = said(loaded, image, wanted)[-1]
        return (
            last.full,
            last.pruned,
            last.kept.item.indices.tolist(),
            last.kept.cells.cell.tolist(),
        )

    alone = [visit(*one) for one in visitors]
    assert len({str(one) for one in alone}) == len(visitors)
    together = [None] * len(visitors)

    def work(i):
        together[i] = [visit(*visitors[i]) for _ in range(2)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(visitors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == [[one, one] for one in alone]
    assert "generate" not in vars(loaded.model)  # nothing is left on the model
