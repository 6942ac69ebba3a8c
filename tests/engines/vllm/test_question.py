"""Methods that hear the question: the same words and the same kept tokens as in transformers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

import otprune
from otprune.engines.common.question import text_behind
from otprune.engines.vllm.question import questions
from otprune.engines.vllm.rows import Asked, Plan, plan, read, write
from otprune.engines.vllm.selection import choose
from otprune.engines.vllm.settings import engine_settings, fingerprint, request_settings
from tests.random_tokens import random_tokens

from .checkpoints import CHECKPOINTS
from .engines import QUESTIONS, Question, ask, engine
from .test_families import agree

IMAGE, VIDEO, START, END, EOS = 90, 91, 92, 93, 2
HEARD = {"method": "transport", "question": 0.9}
# Turns as templates close them, with an answer in the prompt, and images in several of them.
TURNS = [
    Question("USER {}is it red? ANSWER no</s>USER tell me where the cat is ANSWER", (0,)),
    Question("USER {}what? ANSWER a cat</s>USER {} and {} hide the same thing ANSWER", (2, 1, 0)),
    Question("USER {}how many people are there?</s>ANSWER", (1,)),
]


class Projected(otprune.MMTok):
    """Without the encoder's features, which it gets in transformers."""

    uses = frozenset()


@pytest.mark.parametrize("mark", [[IMAGE], [START, IMAGE, END]])
def test_the_text_is_found_where_placeholders_are_not_written_yet(mark):
    """For any prompt what the same rule finds once they are."""
    rng = random.Random(0)
    for _ in range(500):
        short, full, ends = [], [], []
        for _ in range(rng.randrange(4)):
            text = rng.choices([1, 5, 6, 7, 8, EOS], k=rng.randrange(9))
            short += [*text, *mark]
            full += [*text, *mark[:-2], *[IMAGE] * rng.randrange(13, 40)]
            ends.append(len(full))
            full += mark[2:]
        text = rng.choices([1, 5, 6, 7, 8, EOS], k=rng.randrange(12))
        short, full = short + text, full + text
        special = {1, EOS, START, END, IMAGE}
        wanted = [tuple(text_behind(full[:at], full[at:], {EOS}, special)) for at in ends]
        made = questions(short, {"image": mark}, {"image": len(ends)}, {EOS}, special, {IMAGE})
        assert made == {"image": wanted}


def test_images_and_videos_of_one_prompt():
    prompt = [5, IMAGE, 6, VIDEO, 7, IMAGE, 8]
    targets = {"image": [IMAGE], "video": [VIDEO], "audio": [3]}
    made = questions(prompt, targets, {"image": 2, "video": 1}, {EOS}, {EOS})
    assert made == {"image": [(6, 7, 8), (8,)], "video": [(7, 8)]}
    with pytest.raises(otprune.OTPruneError, match="2 image placeholders for 3 of them"):
        questions(prompt, targets, {"image": 3}, {EOS}, {EOS})


def test_the_key_of_an_image_has_the_question_where_it_is_heard():
    heard = engine_settings({"keep": 0.25, **HEARD})
    keys = {fingerprint(heard, "image", asked) for asked in ((), (1,), (1, 2), (12,))}
    assert len(keys) == 4
    for given, hears in (
        ({"keep": 0.25}, (False, False)),
        ({"keep": 0.25, "method": "transport", "question": 0.0}, (False, False)),
        ({"keep": 0.25, **HEARD}, (True, True)),
        ({"keep": 1, "method": "mmtok"}, (True, True)),
        ({"keep": 1.0, "method": "cdpruner"}, (False, False)),
        ({"video_pruning_rate": 0.5, **HEARD}, (False, True)),
        ({"keep": 0.25, "method": "recommended", "question": 0.9}, (True, True)),
    ):
        settings = engine_settings(given)
        assert tuple(settings.hears(modality) for modality in ("image", "video")) == hears


def test_a_text_that_a_request_gives():
    engine_ = engine_settings({"keep": 0.25, **HEARD, "text": "Is there a crack?"})
    assert engine_.text == "Is there a crack?"
    assert request_settings(engine_, {"text": [5, 6]}).text == (5, 6)
    assert request_settings(engine_, {"keep": 0.5}).text == "Is there a crack?"
    assert request_settings(engine_, {"text": None}).text is None
    assert request_settings(engine_, {"method": "grid"}).text is None
    for wrong in (5, True, [5, -1], [True], ["a"], {"a": 1}, [1.0]):
        with pytest.raises(otprune.CueError, match="expected a string, or a list of token ids"):
            request_settings(engine_, {"text": wrong})
    with pytest.raises(otprune.CueError, match="OTPrune does not use question"):
        engine_settings({"keep": 0.25, "text": "what is it?"})


@pytest.mark.parametrize("method", ["visionzip", "fastervlm", "scope"])
def test_methods_that_need_the_encoder_are_refused(method):
    with pytest.raises(otprune.UnsupportedError, match="cannot be provided by the engine for vLLM"):
        engine_settings({"keep": 0.25, "method": method})


def test_the_question_travels_with_an_image():
    selector = otprune.TransportPrune(0.25, question=0.9)
    for asked in ((), (5,), tuple(range(0, 150000, 7))):
        one = plan(Asked(selector, question=asked), 1, 40)
        assert one.asked.question == asked
        assert read(write(one)) == one
    whole = plan(Asked(replace(selector, keep=1.0), question=(5,)), 1, 40)
    assert whole.asked.question is None, "an image kept whole is the same for every question"


@pytest.mark.parametrize("merge", [False, True])
def test_images_with_questions_are_chosen_as_if_alone(merge):
    words = [random_tokens(n, 6, seed=n) for n in (0, 1, 4)]
    asked = [(12, words[2]), (12, None), (20, words[1]), (12, words[2]), (12, words[0])]
    images = [random_tokens(m, 6, seed=seed) for seed, (m, _) in enumerate(asked)]
    heard, deaf = otprune.TransportPrune(4, question=0.9), otprune.TransportPrune(4)
    plans = [
        Plan(1, m, Asked(deaf, merge) if w is None else Asked(heard, merge, question=(len(w),)))
        for m, w in asked
    ]
    kept = choose(images, plans, questions=[w for _, w in asked])
    for image, (_, w), one, got in zip(images, asked, plans, kept, strict=True):
        wanted = one.asked.selector.reduce(image, merge=merge, cues=otprune.Cues(question=w))
        assert torch.equal(got.indices, wanted.indices)
        torch.testing.assert_close(got.rows, wanted.features)


def test_every_frame_hears_the_question():
    video, words = random_tokens(3 * 12, 6, seed=0), random_tokens(4, 6, seed=1)
    selector = otprune.TransportPrune(4, question=0.9)
    (got,) = choose([video], [Plan(3, 12, Asked(selector, question=(1,)))], questions=[words])
    wanted = [selector.select(x, cues=otprune.Cues(question=words)) for x in video.view(3, 12, 6)]
    assert torch.equal(got.indices, torch.cat(wanted))


def check_caches(llm, marks):
    """Two questions about an image are two items where they are heard, and one elsewhere."""
    one, other = (QUESTIONS[i] for i in (0, 4))  # the first block ends inside the image
    for share, shared in ((0.0, True), (0.9, False)):
        asked = [question.request(marks, keep=0.75, question=share) for question in (one, other)]
        first, second, again = (ask(llm, [asked[i]])[0] for i in (0, 1, 1))
        assert first.cached == 0
        assert (second.cached > 0) == shared
        assert again.cached > 0


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["llava", "internvl", "qwen2_5_vl"])
def test_answers_are_those_of_transformers(name, checkpoint, reference):
    """Several images and turns, with their own words and with a request's."""
    path, marks = checkpoint(name)
    positions = CHECKPOINTS[name].positions
    asked = [*(QUESTIONS[i] for i in (0, 1, 2, 4)), *TURNS]
    if name == "qwen2_5_vl":
        asked.append(QUESTIONS[7])  # a video, too
    heard = otprune.TransportPrune(0.25, question=0.9)
    cat = reference(name).ids("a cat")
    with engine(path, {"keep": 0.25, **HEARD}) as llm:
        answers = ask(llm, [question.request(marks) for question in asked])
        again = ask(llm, [question.request(marks) for question in asked])
        others = {"mmtok": Projected(0.25), "cdpruner": otprune.CDPruner(0.25)}
        of_others = {
            method: ask(llm, [question.request(marks, method=method) for question in TURNS])
            for method in others
        }
        texts = ["a cat", cat, "", []]
        given = ask(llm, [QUESTIONS[0].request(marks, text=text) for text in texts])
        check_caches(llm, marks)
        with pytest.raises(ValueError, match="text has token id 320: the model's vocabulary"):
            ask(llm, [QUESTIONS[0].request(marks, text=[5, 320])])
    by_image = 0
    for question, answer, cached in zip(asked, answers, again, strict=True):
        wanted = reference(name)(question, heard, positions)
        agree(answer, wanted)
        agree(cached, wanted)
        without = reference(name)(question, otprune.TransportPrune(0.25), positions)
        by_image += torch.equal(without[2], wanted[2])
    assert by_image < len(asked) / 2, "the question decides"
    for method, selector in others.items():
        for question, answer in zip(TURNS, of_others[method], strict=True):
            agree(answer, reference(name)(question, selector, positions))
    for text, answer in zip([cat, cat, [], []], given, strict=True):
        agree(answer, reference(name)(QUESTIONS[0], heard, positions, text=text))
