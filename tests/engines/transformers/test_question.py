"""The question of a prompt reaches the selector: by default, as ids, from a function."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import dataclass

import pytest
import torch

import otprune
from otprune import CueError, Selector, Settings, TransportPrune, UnsupportedError, prune
from otprune.engines.common.question import end_ids, special_ids
from otprune.engines.transformers.encoded import encode_call
from otprune.engines.transformers.question import questions
from otprune.engines.vllm.question import questions as before_writing
from tests.families.base import BOS, IMAGE, VISION_END, VISION_START, images_in
from tests.families.tiles import LINE_END
from tests.families.tiny import FAMILIES

NAMES = ("llava", "llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "idefics3", "smolvlm")
NAMES += ("mistral3", "gemma3", "paligemma")
GREEDY = {"max_new_tokens": 3, "do_sample": False}
GOT = []

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(autouse=True)
def no_grad():
    GOT.clear()
    with torch.no_grad():
        yield


@dataclass(frozen=True)
class Listener(Selector):
    """Keeps the first tokens, and writes down the question."""

    needs = frozenset({"question"})

    def pick(self, tokens, k, cues):
        GOT.append(cues.question[0])
        return torch.arange(k).expand(len(tokens), k)


def text_behind(model, inputs):
    """For each image of one-turn prompts, the text tokens behind it, embedded.

    Placeholders, and marks beside and between them, have ids from `LINE_END` on.
    """
    found = []
    for image in images_in(inputs["input_ids"]):
        ids = inputs["input_ids"][image.row, image.columns[-1] + 1 :]
        found.append(model.get_input_embeddings()(ids[(ids > BOS) & (ids < LINE_END)]))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_text_behind_each_image(name, build):
    model, inputs = build(name), FAMILIES[name].inputs((1, 2, 0))
    with prune(model, Listener(3)):
        model(**inputs)
    wanted = text_behind(model, inputs)
    assert len(GOT) == len(wanted) == 3
    for got, expected in zip(GOT, wanted, strict=True):
        torch.testing.assert_close(got, expected.float())
    assert any(len(x) for x in wanted)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_the_engine_for_vllm_takes_the_same_words(name, build):
    """It reads the prompt before the processor writes placeholders, and marks beside them."""
    model, inputs = build(name), FAMILIES[name].inputs((1, 2, 2))
    with prune(model, Listener(3)):
        model(**inputs)
    heard = iter(GOT)
    configs = [model.generation_config, model.config, model.config.get_text_config()]
    ends, special = end_ids(configs), special_ids(configs)
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        ids = ids[mask.bool()].tolist()
        written = {VISION_START, VISION_END} if name == "internvl" else set()
        again = [False, *(a == b == IMAGE for a, b in itertools.pairwise(ids))]
        prompt = [x for x, more in zip(ids, again, strict=True) if not more and x not in written]
        count = prompt.count(IMAGE)
        found = before_writing(prompt, {"image": [IMAGE]}, {"image": count}, ends, special)
        for words in found["image"]:
            wanted = model.get_input_embeddings()(torch.tensor(words, dtype=torch.long))
            torch.testing.assert_close(next(heard), wanted.float())
    assert next(heard, None) is None


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_generate_and_a_later_turn_keep_the_first_choice(name, build):
    model, inputs = build(name), FAMILIES[name].inputs((1,))
    selector = TransportPrune(3, question=0.9)
    with prune(model, selector) as run:
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        first = run.last[0].indices
        more = torch.cat([out.sequences, torch.tensor([[7, 8, 9]])], dim=1)
        model.generate(input_ids=more, past_key_values=out.past_key_values, **GREEDY)
    (image,) = otprune.visual_tokens(model, inputs)
    (asked,) = text_behind(model, inputs)
    wanted = selector.select(image.features, cues=otprune.Cues(question=asked.float()))
    assert first.equal(wanted)


def test_different_questions_about_one_image(build):
    """Rows of a batch, each as by itself."""
    model = build("llava")
    one = FAMILIES["llava"].inputs((1,))
    end = int(images_in(one["input_ids"])[0].columns[-1]) + 1
    ids = one["input_ids"].repeat(4, 1)
    n = ids.shape[1] - end
    ids[:, end:] = torch.randint(5, 40, (4, n), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": one["pixel_values"].repeat(4, 1, 1, 1),
    }
    with prune(model, TransportPrune(3, question=1.0)) as run:
        model(**batch)
        kept = [item.indices.tolist() for item in run.last]
        for row, indices in enumerate(kept):
            model(**{key: value[row : row + 1] for key, value in batch.items()})
            assert run.last[0].indices.tolist() == indices
    assert len({tuple(x) for x in kept}) > 1


class Template:
    """Ids of conversations in two styles; 90 opens a turn, 91 ends one, 92 is the image."""

    CHAT = ([90, 20, 92, 92, 30, 31, 91], [90, 21, 91], [90, 20, 40, 41, 42, 91], [90, 21])
    PLAIN = ([80, 20, 92, 92, 30, 31, 21, 50, 91], [20, 40, 41, 42, 43, 44, 21])


@pytest.mark.parametrize(
    ("turns", "wanted"),
    [
        (Template.CHAT[:1] + Template.CHAT[3:], [30, 31]),
        (Template.CHAT, [90, 20, 40, 41, 42]),
        (Template.PLAIN, [20, 40, 41, 42, 43, 44, 21]),
        (([80, 20, 92, 92, 30, 31, 21],), [30, 31, 21]),
        (([80, 30, 31, 92, 92],), []),
        (([92, 92, 30, 31],), [30, 31]),
        # A header without the token that opens the prompt.
        (([90, 20, 92, 92, 30, 31, 91], [22, 21, 23]), [30, 31, 22, 21, 23]),
        # An empty thought in the header.
        (([90, 20, 22, 92, 30, 31, 91], [22, 90, 21, 22, 60, 23, 61, 24]), [30, 31]),
        # Turns without roles, of question and answer, and a short or a longer second question.
        (([80, 90, 92, 92, 30, 21, 50, 91], [90, 40, 21]), [30, 21, 50, 90, 40, 21]),
        (
            ([80, 90, 7, 92, 30, 21, 50, 91], [90, 40, 41, 42, 43, 44, 45, 21]),
            [90, 40, 41, 42, 43, 44, 45, 21],
        ),
        # The embedded model's: no roles, and short questions.
        (([92, 92, 30, 31, 50, 91], [40, 41]), [40, 41]),
        # Nothing behind the end of the last turn but a line break.
        (([90, 20, 22, 92, 30, 31, 91], [22]), [30, 31, 22]),
    ],
)
def test_the_last_turn(turns, wanted):
    from types import SimpleNamespace

    from transformers import LlavaConfig

    from otprune.engines.transformers.question import _text_behind

    config = LlavaConfig(image_token_id=92)
    config.get_text_config().eos_token_id = 91
    model = SimpleNamespace(
        config=config, generation_config=SimpleNamespace(eos_token_id=[91], to_dict=dict)
    )
    ids = torch.tensor([[0, 0, *itertools.chain(*turns)]])
    mask = torch.ones_like(ids)
    mask[:, :2] = 0
    first, *_, last = (ids == 92).nonzero()[:, 1].tolist() * 2
    call = SimpleNamespace(ids=ids, mask=mask, ends=[(0, first, last)], given={})
    assert _text_behind(model, call, 0).tolist() == wanted


def test_an_answer_with_labels_is_no_question(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1, 1))
    (asked, other), labels = text_behind(model, inputs), inputs["input_ids"].clone()
    labels[:, :-2] = -100
    with prune(model, Listener(3)):
        model(**inputs, labels=labels)
    assert [len(x) for x in GOT] == [len(asked) - 2, len(other) - 2]
    torch.testing.assert_close(GOT[0], asked[:-2].float())
    GOT.clear()
    with prune(model, Listener(3)):
        model(**inputs, labels=inputs["input_ids"])  # nothing says what the answer is
    torch.testing.assert_close(GOT[0], asked.float())


def test_an_offloaded_embedding(build):
    accelerate = pytest.importorskip("accelerate")
    model, inputs = FAMILIES["llava"].model(), FAMILIES["llava"].inputs((1, 1))
    wanted = text_behind(model, inputs)
    accelerate.cpu_offload(model)
    with prune(model, Listener(3)):
        model(**inputs)
    for got, expected in zip(GOT, wanted, strict=True):
        torch.testing.assert_close(got, expected.float())


def test_ids_and_functions(build):
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1, 1))
    embed = model.get_input_embeddings()
    with prune(model, Listener(3), text=[5, 6, 7]):
        model(**inputs)
    assert [x.tolist() for x in GOT] == [embed(torch.tensor([5, 6, 7])).tolist()] * 2
    GOT.clear()
    d = embed.weight.shape[1]

    def ask(images):
        assert [image.row for image in images] == [0, 1]
        images[0].features.zero_()
        return [torch.ones(2, d), None]

    with prune(model, Listener(3), text=ask):
        model(**inputs)
    assert GOT[0].equal(torch.ones(2, d))
    torch.testing.assert_close(GOT[1], text_behind(model, inputs)[1].float())
    GOT.clear()
    otprune.prune_inputs(model, inputs, Listener(3), text=torch.tensor([5]))
    assert [len(x) for x in GOT] == [1, 1]


def test_ids_in_settings():
    """They compare, hash, and do not change with what they were made of."""
    ids = torch.tensor([5, 6])
    made = [Settings(Listener(3), text=text) for text in ([5, 6], ids, ids.numpy(), (5, 6))]
    ids += 1
    assert {(5, 6)} == {one.text for one in made}
    assert len(set(made)) == 1
    assert pickle.loads(pickle.dumps(made[1])) == made[0]


def test_a_question_where_none_is_heard(build):
    with pytest.raises(CueError, match="OTPrune does not use question"):
        Settings(otprune.OTPrune(3), text=[5])
    for wrong, says in (
        ("what is this?", "only the tokenizer can turn into tokens"),
        ([0.5], r"text has shape \(1,\) and dtype torch.float32: expected token ids"),
        ([[1], [2]], "expected token ids"),
        (object(), "text is no array of token ids"),
    ):
        with pytest.raises(CueError, match=says):
            Settings(Listener(3), text=wrong)
    model, inputs = build("llava"), FAMILIES["llava"].inputs((1,))
    for wrong, says in (
        ([10**6], "vocabulary has those from 0 to"),
        (lambda images: [torch.ones(2, 3)], r"text\(images\)\[0\] has shape \(2, 3\)"),
        (lambda images: [], r"text\(images\) returned 0 entries for 1 images"),
        (lambda images: 3, r"text\(images\) returned a int"),
    ):
        with prune(model, Listener(3), text=wrong), pytest.raises(CueError, match=says):
            model(**inputs)

    with pytest.raises(otprune.OTPruneError, match="Settings and more arguments besides"):
        prune(model, Settings(Listener(3)), text=torch.tensor([5, 6]).numpy())

    def again(images):
        return model(**inputs)

    with prune(model, Listener(3), text=again), pytest.raises(UnsupportedError, match="again"):
        model(**inputs)


def test_images_of_a_call_in_the_order_of_the_prompt(build):
    """Videos come after images in the report of an encoder, not in the prompt."""
    name = "qwen2_5_vl"
    model, inputs = build(name), FAMILIES[name].inputs((1, 1), video=True)
    call = encode_call(model, inputs)
    made = questions(lambda images: [[5] * (i + 1) for i in range(len(images))], model, call)
    assert [len(made[i]) for i in call.prompt_order] == list(range(1, len(made) + 1))
