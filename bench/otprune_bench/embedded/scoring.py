"""The embedded model's answers to all questions about an image in one forward.

Pruning does not look at the question, so an image is encoded once and pruned once for a method,
and its questions share one sequence: the image, then text that comes before every question, if
any, then the questions. Each question attends to the image, that text and itself.
`tests/bench/test_scoring.py` shows that answers and losses are those of `otprune.prune` around the
stock model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from otprune.engines.transformers.positions import Scheme
from otprune.engines.transformers.rotary import rotary_of
from otprune.measures.mass import log_distance
from otprune_training.architecture import BOS, PAD, WORD_ID
from otprune_training.questions import Question

# Keys that attention gets a distance term for. The engine has "visual".
Distance = Literal["none", "visual", "all"]
CHUNK = 16  # images a forward: more gain nothing on a CPU


def chunks(number: int) -> list[slice]:
    """Which images share a forward."""
    return [slice(i, min(i + CHUNK, number)) for i in range(0, number, CHUNK)]


@dataclass(frozen=True, eq=False)
class PackedQuestions:
    """The questions about P images, Q in all, packed into one sequence of T words an image.

    Attributes:
        ids: `(P, T)` int64.
        block: `(P, T)` number of the question that a word belongs to, from 1; 0 for the text
            before the questions, -1 for padding.
        offset: `(P, T)` position of a word, counted from the image's end.
        row, end: `(Q,)` image of a question and column of its last word.
        answer: `(Q,)` id of the right answer's one word.
    """

    ids: Tensor
    block: Tensor
    offset: Tensor
    row: Tensor
    end: Tensor
    answer: Tensor

    def rows(self, at: slice) -> PackedQuestions:
        """Some of the sequences, where each has one question."""
        assert len(self.row) == len(self.ids)
        some = self.ids[at], self.block[at], self.offset[at]
        return PackedQuestions(*some, torch.arange(len(some[0])), self.end[at], self.answer[at])


class Scores(NamedTuple):
    """`answers` `(Q,)` int64, the likeliest word; `losses` `(Q,)`, -log p of the right one."""

    answers: Tensor
    losses: Tensor


def pack(
    asked: Sequence[Sequence[Question]], before: Sequence[str] | None = None
) -> PackedQuestions:
    """The questions of each image in one sequence.

    Args:
        asked: the questions of each image.
        before: for every image the text before its questions, words of the embedded model's
            vocabulary; None for no text.
    """
    words, ends, answers = [], [], []
    for p, questions in enumerate(asked):
        text = before[p].split() if before else []
        line = [(WORD_ID[word], 0, i) for i, word in enumerate(text)]
        for number, question in enumerate(questions, 1):
            asking = [WORD_ID[word] for word in question.text.split()]
            line += [(word, number, i) for i, word in enumerate(asking, len(text))]
            ends.append((p, len(line) - 1))
            answers.append(WORD_ID[question.answer])
        words.append(line)
    width = max(map(len, words))
    filled = [line + [(PAD, -1, 0)] * (width - len(line)) for line in words]
    ids, block, offset = torch.tensor(filled).unbind(-1)
    row, end = torch.tensor(ends).unbind(-1)
    return PackedQuestions(ids, block, offset, row, end, torch.tensor(answers))


def pack_chunks(
    asked: Sequence[Sequence[Question]], before: Sequence[str] | None = None
) -> list[PackedQuestions]:
    """The questions of all images, packed chunk by chunk (see `chunks`)."""
    parts = chunks(len(asked))
    return [pack(asked[at], before[at] if before else None) for at in parts]


def pixels(processor: Any, images: Sequence[Image.Image]) -> list[Tensor]:
    """What the embedded model's encoder sees of P images, chunk by chunk (see `chunks`)."""
    return [
        processor.image_processor(list(images[at]), return_tensors="pt")["pixel_values"]
        for at in chunks(len(images))
    ]


def encode(model: Any, processor: Any, images: Sequence[Image.Image]) -> Tensor:
    """Tokens of P images as the language model would get them, `(P, 144, 128)` float32."""
    return encode_pixels(model, pixels(processor, images))


@torch.no_grad()
def encode_pixels(model: Any, pixels: Sequence[Tensor]) -> Tensor:
    """As `encode`, of pixels in chunks."""
    tokens: list[Tensor] = []
    for some in pixels:
        tokens += model.model.get_image_features(pixel_values=some).pooler_output
    return torch.stack(tokens)


@torch.no_grad()
def score(
    model: Any,
    packed: PackedQuestions,
    features: Tensor,
    indices: Tensor,
    m: int,
    positions: Scheme,
    log_mass: Tensor | None = None,
    distance: Distance = "none",
) -> Scores:
    """Answers and losses of all packed questions.

    Args:
        model: the embedded model, eval mode.
        packed: the questions about P images.
        features: `(P, k, d)` kept tokens, merged or not.
        indices: `(P, k)` their positions among the m tokens of the full image.
        m: tokens of the full image.
        positions: as in `otprune.prune`.
        log_mass: `(P, k)` what is added to the attention logits of the kept tokens.
        distance: the keys that have a distance term.
    """
    rows, k, _ = features.shape
    core = model.model.language_model
    embed = core.embed_tokens
    inputs = torch.cat(
        [embed(torch.full((rows, 1), BOS)), features, embed(packed.ids)],
        dim=1,
    )
    compact = positions == "compact"
    places = torch.arange(k).expand(rows, k) if compact else indices
    first_word = 1 + (k if compact else m)
    where = torch.cat([torch.zeros(rows, 1).long(), 1 + places, first_word + packed.offset], dim=1)

    # Block 0 is the beginning and the image, which every question sees.
    block = torch.nn.functional.pad(packed.block, (1 + k, 0))
    visible = (block[:, None] == 0) | (block[:, None] == block[:, :, None])
    visible &= torch.ones(visible.shape[1:], dtype=torch.bool).tril()
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    if log_mass is not None:
        mask[:, :, 1 : 1 + k] += log_mass[:, None]
    if distance != "none":
        angles = rotary_of(model).features(where, None)
        term = log_distance(angles, angles, core.config.head_dim)
        keys = slice(1, 1 + k) if distance == "visual" else slice(None)
        mask[:, :, keys] += term[:, :, keys]
    states = core(
        inputs_embeds=inputs, attention_mask=mask[:, None], position_ids=where, use_cache=False
    ).last_hidden_state
    logs = model.lm_head(states[packed.row, 1 + k + packed.end]).log_softmax(-1)
    losses = -logs.gather(1, packed.answer[:, None])[:, 0]
    return Scores(logs.argmax(-1), losses)


def score_chunks(
    model: Any,
    packed: Sequence[PackedQuestions],
    features: Tensor,
    indices: Tensor,
    m: int,
    positions: Scheme = "preserved",
    log_mass: Tensor | None = None,
    distance: Distance = "none",
) -> Scores:
    """As `score`, chunk by chunk: `packed` from `pack_chunks`, the tensors of all P images."""
    found = [
        score(
            model,
            part,
            features[at],
            indices[at],
            m,
            positions,
            None if log_mass is None else log_mass[at],
            distance,
        )
        for at, part in zip(chunks(len(features)), packed, strict=True)
    ]
    return Scores(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def gather(tokens: Tensor, indices: Tensor) -> Tensor:
    """Rows `(P, k, d)` of tokens `(P, m, d)` at indices `(P, k)`."""
    return tokens.gather(1, indices[..., None].expand(-1, -1, tokens.shape[-1]))
