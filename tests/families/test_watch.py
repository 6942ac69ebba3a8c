"""Sessions: the same kept tokens in one prompt give the same logits, for every family."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, PreTrainedModel

from otprune import UnsupportedError, watch
from otprune.engines.transformers.watching import language
from otprune.engines.transformers.watching.rotation import KeyRotation

from .base import IMAGE, VIDEO
from .reference import reference_logits
from .tiny import FAMILIES
from .watching import EVERY, TICKS, WATCHED, Words, frame, joint, with_following_text

TOLERANCE = 2e-4
QUESTION = "30 31 32"
STEPS = 3


@functools.cache
def tiny(name: str) -> PreTrainedModel:
    return WATCHED[name].model()


class Recorder(LogitsProcessor):
    """Keeps the logits of every step."""

    def __init__(self) -> None:
        self.logits: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.logits.append(scores[0].clone())
        return scores


class Keep:
    """A selector of streams that keeps given tokens of each frame."""

    def __init__(self, *kept: list[int]) -> None:
        self.kept = [torch.tensor(x, dtype=torch.int64) for x in kept]
        self.at = 0

    def push(self, tokens: Tensor) -> Tensor:
        self.at += 1
        return self.kept[self.at - 1]

    def state_dict(self) -> dict[str, Tensor]:
        return {"at": torch.tensor(self.at)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.at = int(state["at"])


def gray(value: int) -> Any:
    return np.full((8, 8, 3), value, dtype=np.uint8)


def ask(session: watch, question: str = QUESTION, **generate: Any) -> tuple[Tensor, Tensor]:
    """The answer's ids and the logits of every step, `(t, V)`."""
    recorder = Recorder()
    text = session.ask(
        question, max_new_tokens=STEPS, do_sample=False, logits_processor=[recorder], **generate
    )
    return torch.tensor([int(x) for x in text.split()]), torch.stack(recorder.logits)


def expected(
    name: str,
    shown: list[tuple[int, float]],
    kept: list[list[int]],
    question: str,
    answer: Tensor,
    left: int = 0,
) -> Tensor:
    """The logits of one prompt with the same frames and kept tokens, `(t, V)`.

    shown: seed and time of each frame; kept: its kept tokens; left: frames that have left the
        memory, so that the last frame and the question do not see them.
    """
    model = tiny(name)
    frames = [frame(name, seed, time) for seed, time in shown]
    inputs = joint(name, frames, question)
    inputs = with_following_text(model, name, inputs, question)
    ids = inputs["input_ids"][0]
    visual = (ids == IMAGE) | (ids == VIDEO)
    keep, places, start = ~visual, visual.nonzero()[:, 0], 0
    for one, some in zip(frames, kept, strict=True):
        row = one["input_ids"][0]
        keep[places[start + torch.tensor(some, dtype=torch.int64)]] = True
        start += int(((row == IMAGE) | (row == VIDEO)).sum())
    opening, last = len(Words(name).opening()), frames[-1]["input_ids"].shape[1]
    width = sum(one["input_ids"].shape[1] for one in frames)
    gone = sum(one["input_ids"].shape[1] for one in frames[:left])
    first, until = keep[:opening].sum(), keep[: opening + gone].sum()
    begins = keep[: opening + width - last].sum()
    n = int(keep.sum()) + len(answer) - 1
    blocked = torch.zeros(n, n, dtype=torch.bool)
    blocked[begins:, first:until] = True
    scheme = "preserved" if name.startswith("qwen") else "compact"
    (logits,) = reference_logits(
        model, inputs, keep[None], scheme, answer[None, :-1], blocked=blocked
    )
    return logits[-len(answer) :]


SHOWN = [(1, 0.0), (2, EVERY), (3, 2 * EVERY)]
KEPT = [[0, 2, 3], [1], [0, 1, 3]]


def seen(name: str, frames: int = 3, **settings: Any) -> watch:
    session = watch(tiny(name), Words(name), Keep(*KEPT), unchanged=0, **settings)
    for seed, time in SHOWN[:frames]:
        session.see(gray(seed), time=time)
    return session


def close(logits: Tensor, wanted: Tensor) -> None:
    there = logits.isfinite()  # some tokens are suppressed
    assert there.sum() > 0.9 * there.numel()
    torch.testing.assert_close(logits[there], wanted[there], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", WATCHED)
def test_every_answer_is_that_of_one_prompt(name: str) -> None:
    session = watch(tiny(name), Words(name), Keep(*KEPT), unchanged=0)
    for i, (seed, time) in enumerate(SHOWN):
        session.see(gray(seed), time=time)
        ids, logits = ask(session)
        close(logits, expected(name, SHOWN[: i + 1], KEPT[: i + 1], QUESTION, ids))


@pytest.mark.parametrize("name", WATCHED)
def test_what_left_the_memory_is_not_seen_by_what_comes_after(name: str) -> None:
    session = seen(name, memory=4)
    assert session.tokens == 4
    assert {n: x.tolist() for n, x in session.kept.items()} == {1: KEPT[1], 2: KEPT[2]}
    ids, logits = ask(session)
    close(logits, expected(name, SHOWN, KEPT, QUESTION, ids, left=1))


@pytest.mark.parametrize("name", WATCHED)
def test_keys_move_to_other_positions(name: str) -> None:
    model = tiny(name)
    axes = 3 if name.startswith("qwen") else 1
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(40, 290, (12,), generator=generator)
    start, shift = torch.randint(0, 900, (2, axes, 12), generator=generator)
    shift -= 300

    def keys(positions: Tensor) -> list[Tensor]:
        cache = DynamicCache()
        language.prefill(model, ids, positions, cache)
        return [layer.keys for layer in cache.layers]

    # Keys of the first layer depend on nothing but the token and its own position.
    turn = KeyRotation(model)
    torch.testing.assert_close(
        turn(keys(start), shift)[0], keys(start + shift)[0], atol=1e-4, rtol=1e-4
    )
    # Those of later layers too if all tokens move together.
    together, begin = shift[:, :1].expand_as(shift), torch.arange(12).repeat(axes, 1)
    for moved, wanted in zip(turn(keys(begin), together), keys(begin + together), strict=True):
        torch.testing.assert_close(moved, wanted, atol=1e-4, rtol=1e-4)


class NoOpening(Words):
    def opening(self) -> list[int]:
        return []


@pytest.mark.parametrize("name", [name for name in WATCHED if name not in TICKS])
def test_laid_out_anew_answers_are_the_same_where_only_the_start_moved(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing in front of the frames, all distances stay as they were."""
    far = watch(tiny(name), NoOpening(name), Keep(*KEPT * 10), unchanged=0, memory=7)
    monkeypatch.setattr(tiny(name).config.get_text_config(), "max_position_embeddings", 120)
    near = watch(tiny(name), NoOpening(name), Keep(*KEPT * 10), unchanged=0, memory=7)
    for i in range(30):
        for session in (far, near):
            session.see(gray(i + 1), time=float(i))
        assert near._now.place.next <= 120 - 30  # a quarter is left for a question
    assert far._now.place.next > near._now.place.next
    torch.testing.assert_close(ask(near)[1], ask(far)[1], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["gemma3", "paligemma"])
def test_models_whose_image_tokens_see_each_other_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedError, match=r"both directions|sliding window"):
        watch(FAMILIES[name].model(), Words(name))
