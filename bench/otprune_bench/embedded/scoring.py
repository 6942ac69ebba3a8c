"""The embedded model's answers to all questions about an image in one forward.

Pruning does not look at the question, so an image is encoded once and pruned once for a method,
and its questions share one sequence: image first, then what was said before if anything, then
every question, each of which sees all that and itself. `tests/bench/test_scoring.py` shows that
answers and losses are those of `otprune.prune` around the stock model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from otprune.engines.transformers.positions import Positions
from otprune_training.architecture import BOS, PAD, WORD_ID
from otprune_training.questions import Question


@dataclass(frozen=True, eq=False)
class Sheet:
    """The questions about P images, Q in all, T words an image.

    Attributes:
        ids: `(P, T)`.
        block: `(P, T)` number of the question that a word belongs to, from 1; 0 is what was said
            before, -1 padding.
        offset: `(P, T)` place of a word behind the image.
        row, end: `(Q,)` image of a question and column of its last word.
        answer: `(Q,)` id of the right answer's one word.
    """

    ids: Tensor
    block: Tensor
    offset: Tensor
    row: Tensor
    end: Tensor
    answer: Tensor


class Scores(NamedTuple):
    """`answers` `(Q,)` int64, the likeliest word; `losses` `(Q,)`, -log p of the right one."""

    answers: Tensor
    losses: Tensor


def pack(asked: Sequence[Sequence[Question]], said: Sequence[str] | None = None) -> Sheet:
    """The questions of each image, side by side.

    Args:
        said: for every image the text that stands before each of its questions, words of the
            embedded model's vocabulary; None for nothing.
    """
    words, ends, answers = [], [], []
    for p, questions in enumerate(asked):
        before = said[p].split() if said else []
        line = [(WORD_ID[word], 0, i) for i, word in enumerate(before)]
        for number, question in enumerate(questions, 1):
            asking = [WORD_ID[word] for word in question.text.split()]
            line += [(word, number, i) for i, word in enumerate(asking, len(before))]
            ends.append((p, len(line) - 1))
            answers.append(WORD_ID[question.answer])
        words.append(line)
    width = max(map(len, words))
    filled = [line + [(PAD, -1, 0)] * (width - len(line)) for line in words]
    ids, block, offset = torch.tensor(filled).unbind(-1)
    row, end = torch.tensor(ends).unbind(-1)
    return Sheet(ids, block, offset, row, end, torch.tensor(answers))


@torch.no_grad()
def encode(model: Any, processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """Tokens of P images as the language model would get them, `(P, 144, 128)` float32."""
    pixels = processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
    output = model.model.get_image_features(pixel_values=pixels)
    return torch.stack(list(output.pooler_output))


@torch.no_grad()
def score(
    model: Any,
    sheet: Sheet,
    features: Tensor,
    indices: Tensor,
    m: int,
    positions: Positions,
    log_mass: Tensor | None = None,
) -> Scores:
    """Answers and losses of every question on a sheet.

    Args:
        model: the embedded model, eval mode.
        features: `(P, k, d)` kept tokens, merged or not.
        indices: `(P, k)` their places among the m tokens of the full image.
        m: tokens of the full image.
        positions: as in `otprune.prune`.
        log_mass: `(P, k)` what is added to the attention logits of the kept tokens.
    """
    rows, k, _ = features.shape
    core = model.model.language_model
    embed = core.embed_tokens
    inputs = torch.cat(
        [embed(torch.full((rows, 1), BOS)), features, embed(sheet.ids)],
        dim=1,
    )
    compact = positions == "compact"
    places = torch.arange(k).expand(rows, k) if compact else indices
    first_word = 1 + (k if compact else m)
    where = torch.cat([torch.zeros(rows, 1).long(), 1 + places, first_word + sheet.offset], dim=1)

    # Block 0 is the beginning and the image, which every question sees.
    block = torch.nn.functional.pad(sheet.block, (1 + k, 0))
    visible = (block[:, None] == 0) | (block[:, None] == block[:, :, None])
    visible &= torch.ones(visible.shape[1:], dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    if log_mass is not None:
        mask[:, :, 1 : 1 + k] += log_mass[:, None]
    states = core(
        inputs_embeds=inputs, attention_mask=mask[:, None], position_ids=where, use_cache=False
    ).last_hidden_state
    logs = model.lm_head(states[sheet.row, 1 + k + sheet.end]).log_softmax(-1)
    losses = -logs.gather(1, sheet.answer[:, None])[:, 0]
    return Scores(logs.argmax(-1), losses)
