"""What a question sees in training: image and itself, in a conversation also what was said."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from otprune_training.batches import make_batch
from otprune_training.train import Learner

PHOTOS = [Image.effect_noise((200, 160), 60).convert("RGB")]


@pytest.fixture(scope="module")
def learner() -> Learner:
    return Learner().eval()


@torch.no_grad()
def test_a_conversation_alone_sees_what_was_said_before(learner: Learner) -> None:
    batch = make_batch(PHOTOS, (0, 4), 6)
    assert 0 < int(batch.talk.sum()) < 6
    tokens = torch.randn(6, 144, 128, generator=torch.Generator().manual_seed(0))
    before = learner._language(tokens, batch)[1]
    batch.ids[:, 0] = (batch.ids[:, 0] + 1) % 90  # another first word of the first question
    after = learner._language(tokens, batch)[1]
    for row, talk in enumerate(batch.talk.tolist()):
        moved = (before[row] - after[row]).abs().amax(-1) > 1e-6
        assert bool(moved[batch.block[row] == 1].any())
        assert bool(moved[batch.block[row] == 2].any()) == talk


@torch.no_grad()
def test_every_loss_is_a_finite_number(learner: Learner) -> None:
    for talks in (False, True):
        losses = learner(make_batch(PHOTOS, (0, 5), 2, talks=talks))
        hits = losses.pop("hits")
        assert hits.dtype == torch.bool
        assert torch.stack(list(losses.values())).isfinite().all()
