"""The model with 324 tokens: what it starts from, what it learns from, and that it alone learns."""

from __future__ import annotations

import torch
from PIL import Image

from otprune_training.architecture import build
from otprune_training.dense import DENSE, Learner, _orthogonal, draw, enlarged, interpolated
from otprune_training.scenes import GRID

PHOTOS = [Image.effect_noise((200, 160), 60).convert("RGB")]


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    fine, coarse, sticker = draw(PHOTOS, (3, 1), 2)
    assert fine.shape == (2, 3, 144, 144)
    assert coarse.shape == (2, 3, 96, 96)
    assert sticker.shape == (2, DENSE * DENSE)
    assert sticker.any()
    again = draw(PHOTOS, (3, 1), 2)
    assert all(map(torch.equal, again, (fine, coarse, sticker)))


def test_interpolated_patches_keep_their_place() -> None:
    row = torch.arange(GRID).repeat_interleave(GRID).float()[None, :, None]
    wanted = (torch.arange(DENSE) + 0.5) * GRID / DENSE - 0.5  # centres, in patches of the grid
    made = interpolated(row)[0, :, 0].view(DENSE, DENSE)
    assert torch.allclose(made, wanted.clamp(0, GRID - 1)[:, None].expand(-1, DENSE), atol=1e-5)


def test_the_tower_alone_learns() -> None:
    embedded = build(seed=0).requires_grad_(False)
    dense = build(seed=1, grid=DENSE)
    dense.load_state_dict(enlarged(embedded.state_dict()))
    learner = Learner(dense.model.vision_tower, embedded.model)
    torch.stack(list(learner(*draw(PHOTOS, (3, 2), 1)).values())).sum().backward()
    learns = {name for name, p in learner.named_parameters() if p.grad is not None}
    assert "tower.embeddings.position_embedding.weight" in learns
    assert all(p.grad is None for p in embedded.parameters())
    assert len(list(learner.parameters())) == len(list(dense.model.vision_tower.parameters()))


def test_an_update_is_nearly_orthogonal() -> None:
    for shape in ((16, 40), (40, 16)):
        matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        values = torch.linalg.svdvals(_orthogonal(matrix))
        assert 0.5 < values.min() <= values.max() < 1.5
