"""The answers of the embedded model with every method and ratio, and the times of selections.

Methods choose from the tokens and the cues that the library's engine gives them: once an image, or
once a question if they hear it. `tests/bench/test_quality.py` shows that answers are those of
`otprune.prune` around the stock model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from otprune import keep as budget
from otprune import prune, visual_tokens
from otprune.demo import load
from otprune.engines.transformers.saliency import Part, received
from otprune.errors import OTPruneError
from otprune.measures.mass import log_mass
from otprune.selectors import Cues, Reduction
from otprune.selectors.cues import Cue
from otprune_bench.embedded import scoring, tasks
from otprune_bench.methods import UNPRUNED
from otprune_bench.quality.contenders import WILD as LOOKED_AT
from otprune_bench.quality.contenders import Contender, contenders, timed
from otprune_bench.quality.plan import BASE, KEEPS, WILD, WILD_KEEPS, Plan, Shape
from otprune_bench.runs.cases import Case
from otprune_bench.timing.race import make_tokens, race
from otprune_training.architecture import WORD_ID

_CUES: tuple[Cue, ...] = ("saliency", "keys", "encoded", "grid")
_ROWS = 64  # questions a forward
_HEADS = 16  # of the encoder whose attention map is timed, that of LLaVA-1.5


class Evaluation:
    """The tasks of a split, what the encoder makes of their images, and the model's answers."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        self.tasks = tasks.of_split(plan.split, plan.images, plan.photographs, photos, plan.seed)
        self.questions = tasks.Questions.about(self.tasks)
        every = contenders(plan.seed, plan.random_seeds, plan.own)
        wanted = (BASE, *plan.lines, *plan.own)
        self.contenders = [
            c for c in every if not plan.lines or c.name in wanted or c.group == "baseline"
        ]
        unknown = set(plan.lines) - {c.name for c in every}
        if unknown:
            names = ", ".join(c.name for c in every)
            raise OTPruneError(f"no line is named {sorted(unknown)[0]!r}: expected one of {names}")

    @cached_property
    def _model(self) -> tuple[Any, Any]:
        return load()

    @cached_property
    def _images(self) -> tuple[Tensor, list[Cues]]:
        """Tokens `(P, 144, 128)` and the cues of each image."""
        model, processor = self._model
        tokens, cues = [], []
        for task in self.tasks:
            inputs = processor(images=[task.image], text="<image> ?", return_tensors="pt")
            (image,) = visual_tokens(model, inputs, cues=_CUES)
            tokens.append(image.features)
            cues.append(image.cues or Cues())
        return torch.stack(tokens), cues

    @cached_property
    def _words(self) -> list[Tensor]:
        """The embedded words of every question, `(n, 128)`."""
        model, _ = self._model
        embed = model.get_input_embeddings()
        asked = [question.text.split() for task in self.tasks for question in task.questions]
        return [embed(torch.tensor([WORD_ID[w] for w in words])).detach() for words in asked]

    @cached_property
    def _prompts(self) -> list[tuple[int, dict[str, Tensor]]]:
        """Inputs of the stock model, some questions each, with the number of the first."""
        _, processor = self._model
        asked = [(task.image, q.text) for task in self.tasks for q in task.questions]
        made = []
        for first in range(0, len(asked), _ROWS):
            images, texts = zip(*asked[first : first + _ROWS], strict=True)
            prompts = [f"<image> {text}" for text in texts]
            inputs = processor(images=list(images), text=prompts, padding=True, return_tensors="pt")
            made.append((first, dict(inputs)))
        return made

    @cached_property
    def _by_image(self) -> list[scoring.PackedQuestions]:
        return scoring.pack_chunks([task.questions for task in self.tasks])

    @cached_property
    def _by_question(self) -> scoring.PackedQuestions:
        return scoring.pack([[question] for task in self.tasks for question in task.questions])

    def unpruned(self) -> dict[str, Any]:
        """What all others are compared with."""
        tokens, _ = self._images
        whole = torch.arange(tokens.shape[1]).expand(len(tokens), -1)
        return _outcome(scoring.score_chunks(self._model[0], self._by_image, tokens, whole, 144))

    @cached_property
    def _wild(self) -> Tensor:
        """The tokens with one feature that dominates them, as encoders have."""
        tokens = self._images[0].clone()
        g = torch.Generator().manual_seed(self.plan.seed)
        size = WILD * torch.linalg.vector_norm(tokens, dim=-1).mean()
        tokens[..., 0] += size * torch.randn(tokens.shape[:2], generator=g)
        return tokens

    def pruned(self, contender: Contender, keep: float, wild: bool = False) -> dict[str, Any]:
        """Answer and loss of every question.

        wild: whether methods choose from tokens with a feature that dominates; answers are given
            from the tokens as they are.
        """
        m = self._images[0].shape[1]
        k = budget.count(keep, m)
        if contender.selector is None:
            return self._smaller(k)
        if contender.layers is not None:
            return self._inside(contender, k)
        start = time.perf_counter()
        made = self._choices(contender, k, wild)
        seconds = (time.perf_counter() - start) / len(made)
        features = torch.stack([one.features for one in made])
        indices = torch.stack([one.indices for one in made])
        if wild:
            rows = torch.tensor([row for row, _ in self._asked(contender.hears)])
            features = scoring.gather(self._images[0][rows], indices)
        bias = None
        if contender.mass != "none":
            bias = log_mass(torch.stack([one.masses for one in made]), m, contender.mass)
        distance: scoring.Distance = "visual" if contender.distance else "none"
        score = self._score_each if contender.hears else self._score_images
        return _outcome(score(features, indices, bias, distance)) | {"seconds": seconds}

    def _choices(self, contender: Contender, k: int, wild: bool) -> list[Reduction]:
        """One for each image; for each question, if the method hears it."""
        assert contender.selector is not None
        tokens, cues = self._images
        tokens = self._wild if wild else tokens
        made = []
        for row, question in self._asked(contender.hears):
            selector = contender.selector(k, row)
            known = Cues(**{n: getattr(cues[row], n) for n in _CUES}, question=question)
            given = known.only(selector.uses)
            made.append(selector.reduce(tokens[row], merge=contender.merge, cues=given))
        return made

    def _asked(self, each_question: bool) -> Iterable[tuple[int, Tensor | None]]:
        if not each_question:
            return ((row, None) for row in range(len(self.tasks)))
        return zip(self.questions.image.tolist(), self._words, strict=True)

    def _score_images(
        self, features: Tensor, indices: Tensor, bias: Tensor | None, distance: scoring.Distance
    ) -> scoring.Scores:
        model, _ = self._model
        return scoring.score_chunks(
            model, self._by_image, features, indices, 144, "preserved", bias, distance
        )

    def _score_each(
        self, features: Tensor, indices: Tensor, bias: Tensor | None, distance: scoring.Distance
    ) -> scoring.Scores:
        model, _ = self._model
        packed, found = self._by_question, []
        for first in range(0, len(indices), _ROWS):
            at = slice(first, first + _ROWS)
            part, some = packed.rows(at), None if bias is None else bias[at]
            found.append(
                scoring.score(
                    model, part, features[at], indices[at], 144, "preserved", some, distance
                )
            )
        return scoring.Scores(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def _smaller(self, k: int) -> dict[str, Any]:
        """The image at the largest size that gives at most k tokens; positions counted anew."""
        model, processor = self._model
        height, width = grid_of(k)
        pixels = [smaller(task.image, processor, height, width) for task in self.tasks]
        with torch.no_grad():
            tokens = model.model.get_image_features(
                torch.cat(pixels), interpolate_pos_encoding=True
            ).pooler_output
        features = torch.stack(list(tokens))
        n = height * width
        whole = torch.arange(n).expand(len(features), -1)
        found = scoring.score_chunks(model, self._by_image, features, whole, n, "compact")
        return _outcome(found) | {"tokens": n}

    def _inside(self, contender: Contender, k: int) -> dict[str, Any]:
        """Through the engine, one question a row."""
        model, _ = self._model
        assert contender.selector is not None
        assert contender.layers is not None
        m = self._images[0].shape[1]
        right, answers, losses = self._by_question.answer, [], []
        with (
            torch.no_grad(),
            prune(
                model, contender.selector(m, 0), positions="preserved", layers=contender.layers(k)
            ),
        ):
            for first, inputs in self._prompts:
                logs = model(**inputs, logits_to_keep=1).logits[:, -1].log_softmax(-1)
                answers.append(logs.argmax(-1))
                losses.append(-logs.gather(1, right[first : first + _ROWS, None])[:, 0])
        return _outcome(scoring.Scores(torch.cat(answers), torch.cat(losses)))

    def times(self, shape: Shape) -> dict[str, Any]:
        """Seconds of every selection alone, run by run; see `_time`."""
        every = shape == self.plan.shapes[0]
        return _times(shape, self.plan, every)


def grid_of(k: int) -> tuple[int, int]:
    """Height and width, nearly a square, of at most k tokens."""
    height = int(k**0.5)
    return height, k // height if k // height <= 2 * height else 2 * height


def smaller(image: Image.Image, processor: Any, height: int, width: int) -> Tensor:
    """Pixels `(1, 3, 8 height, 8 width)` of an image that is scaled down as a whole."""
    small = image.resize((8 * width, 8 * height), Image.Resampling.BICUBIC)
    made = processor.image_processor(
        [small], do_resize=False, do_center_crop=False, return_tensors="pt"
    )
    pixels: Tensor = made["pixel_values"]
    return pixels


def _times(shape: Shape, plan: Plan, every: bool) -> dict[str, Any]:
    tokens = make_tokens(1, shape.m, shape.d, plan.seed)[0]
    g = torch.Generator().manual_seed(plan.seed)
    query, key = (torch.randn(1, _HEADS, shape.m + 1, 64, generator=g) for _ in range(2))
    part = Part(0, query, key, None, 64**-0.5)
    cues = {
        "saliency": torch.rand(shape.m, generator=g),
        "keys": torch.randn(shape.m, _HEADS, 64, generator=g),
        "encoded": tokens,
        "question": tokens[torch.randint(shape.m, (shape.n,), generator=g)]
        + torch.randn(shape.n, shape.d, generator=g),
    }
    selectors = timed(shape.k)
    if not every:
        ours = ("transport", "transport, question 0.8")
        selectors = {name: selectors[name] for name in ours}

    def select(selector: Any) -> None:
        if "saliency" in selector.needs:  # what the engine works out for it
            received([part], 0, torch.arange(1, shape.m + 1), 0)
        given = Cues(**cues).only(selector.uses)
        selector.select(tokens, cues=given)

    return race({n: partial(select, s) for n, s in selectors.items()}, plan.repeats, 60.0)


def _outcome(scores: scoring.Scores) -> dict[str, Any]:
    return {
        "answers": scores.answers.tolist(),
        "losses": [round(x, 3) for x in scores.losses.tolist()],
    }


def cases(evaluation: Evaluation) -> Iterable[Case]:
    """ "unpruned", every method at every ratio, "method@keep"; "wild method@keep"; the times."""
    yield UNPRUNED, evaluation.unpruned
    for contender in evaluation.contenders:
        for keep in KEEPS:
            yield f"{contender.name}@{keep}", partial(evaluation.pruned, contender, keep)
    for contender in evaluation.contenders:
        for keep in WILD_KEEPS if contender.name in LOOKED_AT else ():
            yield f"wild {contender.name}@{keep}", partial(evaluation.pruned, contender, keep, True)
    for shape in () if evaluation.plan.lines else evaluation.plan.shapes:
        yield f"time {shape}", partial(evaluation.times, shape)
