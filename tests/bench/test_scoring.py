"""The fast path gives what `otprune.prune` around the stock model gives."""

import pytest
import torch

from otprune import OTPrune, RandomPrune, TransportPrune, prune
from otprune.demo import load
from otprune.measures.mass import log_mass
from otprune_bench.embedded import scoring, tasks
from otprune_training.architecture import WORD_ID


@pytest.fixture(scope="module")
def evaluated():
    model, processor = load()
    made = tasks.make(tasks.noise_images(2, 5), 2, 5)
    tokens = scoring.encode(model, processor, [task.image for task in made])
    return model, processor, made, tokens


def stock(model, processor, task, selector, before="", **settings):
    """Answers and losses of the stock model, one question a row."""
    texts = [f"<image>{before} {q.text}" for q in task.questions]
    inputs = processor(
        images=[task.image] * len(texts), text=texts, padding=True, return_tensors="pt"
    )
    right = torch.tensor([WORD_ID[q.answer] for q in task.questions])
    with torch.no_grad(), prune(model, selector, **settings):
        logs = model(**inputs).logits[:, -1].log_softmax(-1)
    return logs.argmax(-1), -logs.gather(1, right[:, None])[:, 0]


@pytest.mark.parametrize("positions", ["preserved", "compact"])
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(
    "selector", [OTPrune(0.098), TransportPrune(7), RandomPrune(0.25, seed=3), OTPrune(1.0)]
)
def test_equals_pruning_the_stock_model(evaluated, selector, merge, positions):
    model, processor, made, tokens = evaluated
    packed = scoring.pack([task.questions for task in made])
    kept = selector.reduce(tokens, merge=merge)
    fast = scoring.score(model, packed, kept.features, kept.indices, 144, positions)
    slow = [
        stock(model, processor, task, selector, positions=positions, merge=merge) for task in made
    ]
    torch.testing.assert_close(fast.losses, torch.cat([s[1] for s in slow]), atol=1e-4, rtol=1e-4)
    assert torch.equal(fast.answers, torch.cat([s[0] for s in slow]))


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(("mass", "alpha"), [("total", 1.0), ("token", 1.0), ("token", 0.5)])
def test_with_mass_and_behind_other_text_too(evaluated, merge, mass, alpha):
    model, processor, made, tokens = evaluated
    before = [tasks.unrelated_questions(task, 3, 0) for task in made]
    packed = scoring.pack([task.questions for task in made], before)
    kept = TransportPrune(7).reduce(tokens, merge=merge)
    bias = log_mass(kept.masses, 144, mass, alpha)
    fast = scoring.score(model, packed, kept.features, kept.indices, 144, "preserved", bias)
    slow = [
        stock(model, processor, task, TransportPrune(7), text, merge=merge, mass=mass, alpha=alpha)
        for task, text in zip(made, before, strict=True)
    ]
    torch.testing.assert_close(fast.losses, torch.cat([s[1] for s in slow]), atol=1e-4, rtol=1e-4)
    assert torch.equal(fast.answers, torch.cat([s[0] for s in slow]))


@pytest.mark.parametrize("positions", ["preserved", "compact"])
def test_with_a_distance_term_too(evaluated, positions):
    model, processor, made, tokens = evaluated
    before = [tasks.unrelated_questions(task, 3, 0) for task in made]
    packed = scoring.pack([task.questions for task in made], before)
    kept = TransportPrune(7).reduce(tokens)
    how = {"positions": positions, "distance": True, "mass": "total"}
    bias = log_mass(kept.masses, 144, "total")
    fast = scoring.score(
        model, packed, kept.features, kept.indices, 144, positions, bias, distance="visual"
    )
    slow = [
        stock(model, processor, task, TransportPrune(7), text, **how)
        for task, text in zip(made, before, strict=True)
    ]
    torch.testing.assert_close(fast.losses, torch.cat([s[1] for s in slow]), atol=1e-4, rtol=1e-4)
    plain = scoring.score(model, packed, kept.features, kept.indices, 144, positions, bias)
    assert not torch.allclose(fast.losses, plain.losses, atol=1e-4)


def test_questions_do_not_see_each_other(evaluated):
    model, _, made, tokens = evaluated
    alone = [
        scoring.score(
            model, scoring.pack([[q]]), tokens[:1], torch.arange(144)[None], 144, "preserved"
        )
        for q in made[0].questions
    ]
    packed = scoring.pack([made[0].questions])
    together = scoring.score(model, packed, tokens[:1], torch.arange(144)[None], 144, "preserved")
    torch.testing.assert_close(
        together.losses, torch.cat([one.losses for one in alone]), atol=1e-4, rtol=1e-4
    )
