"""Every family: the answers of transformers with the same tokens dropped, and vLLM's own with none.

One engine a family and setting; requests then ask for other ratios, methods and merging.
"""

from __future__ import annotations

import pytest

import otprune

from .checkpoints import CHECKPOINTS
from .engines import Question, ask, engine, questions

pytestmark = pytest.mark.vllm

ASKED = [
    {},
    {"keep": 0.5},
    {"keep": 7},
    {"keep": 0.1, "method": "divprune"},
    {"keep": 0.2, "method": "transport", "merge": True},
    {"keep": 1.0},
    {"encoder_keep": 0.35, "encoder_after": 0.34},
    {"encoder_keep": 0.5, "encoder_after": 1, "keep": 1.0},
]


LONG = "and now a text that fills more than one block of the cache, so that all in front is kept: "


def agree(answer, wanted):
    """The same prompt length and greedy tokens, log-probabilities within 1e-4."""
    length, ids, likely = wanted
    assert answer.prompt == length
    assert answer.ids == ids
    for step, entries in enumerate(answer.likely):
        for token, value in entries.items():
            assert abs(float(likely[step, token]) - value) < 1e-4


def selector_of(asked, keep=0.25):
    return otprune.METHODS[asked.get("method", "otprune")](keep=asked.get("keep", keep))


def stage_of(asked):
    """The selection inside the encoder that a request asks for."""
    keep, after = asked.get("encoder_keep"), asked.get("encoder_after")
    return keep and otprune.EncoderStage(keep, after=after)


def is_comparable(family, asked, question):
    """Whether transformers can be asked the same.

    It chooses among the tokens of a whole video that the encoder kept; frame by frame, as the
    reference has to for Qwen3-VL, it would choose among copies, too.
    """
    whole = stage_of(asked) is None or asked.get("keep") == 1.0
    return whole or family.name != "qwen3_vl" or not question.videos


@pytest.fixture(scope="module", params=sorted(CHECKPOINTS))
def family(request):
    return CHECKPOINTS[request.param]


@pytest.fixture(scope="module")
def asked_of(family):
    return questions((family.image, family.video))


@pytest.fixture(scope="module")
def stock(family, checkpoint):
    """Answers of an engine that was not asked to prune."""
    path, marks = checkpoint(family.name)
    with engine(path) as llm:
        return ask(llm, [q.request(marks) for q in questions(marks)])


@pytest.fixture(scope="module")
def quarter(family, checkpoint, stock):
    """An engine that keeps 0.25 where nothing else is asked."""
    with engine(checkpoint(family.name)[0], {"keep": 0.25}) as llm:
        yield llm


@pytest.fixture(scope="module")
def pruned(family, checkpoint, quarter):
    """Answers by what was asked, all in one engine; twice, with full caches then."""
    _, marks = checkpoint(family.name)
    return [
        [ask(quarter, [q.request(marks, **asked) for q in questions(marks)]) for asked in ASKED]
        for _ in range(2)
    ]


def test_unpruned_it_is_what_transformers_answers(family, stock, reference, asked_of):
    """Without this the other comparisons would say nothing of pruning."""
    for question, answer in zip(asked_of, stock, strict=True):
        agree(answer, reference(family.name)(question, otprune.OTPrune(1.0), "compact"))


@pytest.mark.parametrize("again", [0, 1], ids=["first", "cached"])
@pytest.mark.parametrize("number", range(len(ASKED)), ids=lambda i: str(ASKED[i]))
def test_pruned_it_is_what_transformers_answers(family, pruned, reference, asked_of, number, again):
    asked = ASKED[number]
    for question, answer in zip(asked_of, pruned[again][number], strict=True):
        if not is_comparable(family, asked, question):
            continue
        wanted = reference(family.name)(
            question,
            selector_of(asked),
            family.positions,
            asked.get("merge", False),
            encoder=stage_of(asked),
        )
        agree(answer, wanted)


def test_images_of_one_step_with_other_selections_inside_the_encoder(
    family, checkpoint, quarter, pruned, asked_of
):
    _, marks = checkpoint(family.name)
    quarter.reset_prefix_cache()
    quarter.llm_engine.reset_encoder_cache()
    order = [(q, number) for q in (0, len(asked_of) - 1) for number in range(len(ASKED))]
    mixed = ask(quarter, [asked_of[q].request(marks, **ASKED[number]) for q, number in order])
    for (q, number), answer in zip(order, mixed, strict=True):
        alone = pruned[0][number][q]
        assert (answer.prompt, answer.ids) == (alone.prompt, alone.ids)
        for step, entries in enumerate(answer.likely):
            for token in entries.keys() & alone.likely[step].keys():
                assert abs(entries[token] - alone.likely[step][token]) < 1e-4


def test_keeping_all_is_stock_bit_by_bit(stock, pruned):
    """Of an engine that prunes by default; a request in it asks for everything."""
    number = ASKED.index({"keep": 1.0})
    for wanted, answer in zip(stock, pruned[0][number], strict=True):
        assert (answer.ids, answer.likely) == (wanted.ids, wanted.likely)


def test_pruning_shows_in_the_caches(pruned):
    assert all(answer.cached == 0 for answer in pruned[0][1][:1])
    assert any(answer.cached > 0 for answer in pruned[1][0])


@pytest.mark.parametrize("seen", ["image", "video"])
def test_a_cached_prefix_that_covers_the_whole_image(
    family, checkpoint, quarter, pruned, reference, seen
):
    _, marks = checkpoint(family.name)
    mark, here = ("{}", {"images": (0,)}) if seen == "image" else ("[]", {"videos": (0,)})
    turns = [Question(f"{mark}{LONG}{end}?", **here) for end in ("one", "two, or three")]
    if turns[0] not in questions(marks, turns):
        pytest.skip("takes no videos")
    quarter.reset_prefix_cache()
    first, second = (ask(quarter, [q.request(marks)])[0] for q in turns)
    other = ask(quarter, [turns[1].request(marks, keep=0.3)])[0]
    assert first.cached == 0
    assert second.cached >= first.prompt - len("one?") - 32  # but for a block that is not full
    assert other.cached == 0, "another ratio must not be answered from this one's cache"
    for answer, turn, keep in [(first, 0, 0.25), (second, 1, 0.25), (other, 1, 0.3)]:
        wanted = reference(family.name)(turns[turn], otprune.OTPrune(keep), family.positions)
        agree(answer, wanted)
