"""Train the embedded model from nothing: `python -m otprune_training.train RUN_DIR`.

`--seed` and the numbers of steps make other models of its kind, `--tower OTHER_RUN` one on the
vision tower of another run: `otprune bench mass` compares them. `--weights FOLDER --language 0`
fine-tunes a finished model in the last stage, with `--theta` on another rotary base.

1. Stage "vision" trains the vision tower by dense labels of its patches. Every other batch shows
   stickers in colours without a name, so that form is learned apart from colour.
2. Stage "language" trains projector and language model on the frozen tower: by questions (each
   attends to the image and itself), by an alignment loss (projected tokens against the embeddings
   of the words that describe them), and by teaching attention heads where to look: from the word
   that names a thing to its patches, and from a question's end to the words that name things.
3. Stage "talks" adds naming by place, and conversations, in which a question attends to those
   before it. A model that only saw one question behind an image relies on that. (With
   conversations from the start, left and right stayed at chance.)

The extra heads are not part of the embedded model. No image is pruned in training.

Certain combinations of colour and noun are excluded from training. A classifier would rightly learn
that there are none. So where a loss chooses among nouns or colours, the logit of the excluded one
is lowered by `HANDICAP` (logit adjustment, Menon et al., arXiv 2007.07314), and its absence
teaches nothing.

All stages run by step count; every batch depends on (seed, step) alone. A checkpoint is written
every `SAVE_EVERY` steps and an interrupted run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import DataLoader
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from otprune.demo.words import COLOR_NAMES, NOUNS, PLACES
from otprune_training import photos as photographs
from otprune_training.architecture import THETA, WORD_ID, build
from otprune_training.batches import (
    KINDS,
    NOUN_OF_KIND,
    TOKENS,
    Batch,
    Batches,
    Images,
    make_batch,
    sequence_ids,
)

SEED = 20261123
THREADS = 2
BATCH = 32
STAGES = ("vision", "language", "talks")
PEAK = {"vision": 1.0, "language": 0.6, "talks": 0.3}  # of the learning rates
HANDICAP = 10.0
WARM, DECAY_FROM = 60, 0.7  # steps of warm-up; share of the stage after which the rate falls
MUON_RATE, ADAM_RATE = 0.02, 2e-3
LOOKUP_LAYER, LOOKUP_HEADS = 1, 2  # where naming words find their patches
GATHER_LAYER = 2  # where a question's end finds its naming words, first by head 0, last by head 1
SAVE_EVERY, EVALUATE_EVERY = 200, 200


@dataclass(frozen=True)
class Recipe:
    """What may differ from one run to another.

    seed: of the model and its batches.
    vision, language, talks: steps of each stage.
    theta: base of the rotary embedding.
    batch: images a step.
    float32: compute in float32; on a CPU without bfloat16 instructions that is seven times as fast.
    """

    seed: int = SEED
    vision: int = 2000
    language: int = 1200
    talks: int = 600
    theta: float = THETA
    batch: int = BATCH
    float32: bool = False


class Heads(nn.Module):
    """Heads of the dense labels of the tower's patches; used in training only."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.kind = nn.Linear(width, 1 + len(KINDS))
        self.color = nn.Linear(width, 1 + len(COLOR_NAMES))
        self.big = nn.Linear(width, 3)
        self.centre = nn.Linear(width, 2)
        self.same = nn.Linear(width, 3 * 6)
        self.place = nn.Linear(width, 2)  # of what a word names, after the look-up


class Learner(nn.Module):
    """The model, its training heads, and every loss."""

    def __init__(self, seed: int = SEED, theta: float = THETA) -> None:
        super().__init__()
        self.model: Any = build(seed, theta)
        self.heads = Heads()
        self.seen: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

        def attention(
            module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, **kwargs: Any
        ) -> Any:
            if mask is None:
                return _attend(query, key, value), None
            self.seen[module.layer_idx] = query, key, mask
            # The image is in front and does not attend to the questions behind it.
            front = TOKENS + 1
            inner = mask[..., :front, :front]
            image = _attend(query[:, :, :front], key[:, :, :front], value[:, :, :front], inner)
            words = _attend(query[:, :, front:], key, value, mask[..., front:, :])
            return torch.cat([image, words], 1), None

        AttentionInterface.register("training", attention)
        AttentionMaskInterface.register("training", sdpa_mask)
        for part in (self.model.model.language_model, self.model.model.vision_tower):
            part.config._attn_implementation = "training"

    def forward(self, batch: Images | Batch) -> dict[str, Tensor]:
        """Losses by name; with questions also "hits", (B, T) bool: the answer words got right."""
        if isinstance(batch, Images):
            return self._dense(self._patches(batch), batch)
        with torch.no_grad():
            patches = self._patches(batch.images)
        core = self.model.model
        tokens = core.multi_modal_projector(patches)
        table = core.language_model.embed_tokens.weight
        losses = _alignment(tokens.float(), table.float(), batch.images)
        named, hidden = self._language(tokens, batch)
        wanted = batch.labels != -100
        logits = (hidden[wanted] @ table.T).float()
        labels, excluded = batch.labels[wanted], batch.excluded[wanted]
        absent = F.one_hot(excluded.clamp_min(0), len(table)) * (excluded >= 0)[:, None]
        losses["answer"] = F.cross_entropy(logits - HANDICAP * absent, labels)
        losses["lookup"] = self._lookup(batch)
        losses["gather"] = self._gather(batch)
        one = ~batch.places[:, 0].isnan()
        row, column = batch.mentions[one].unbind(1)
        losses["place"] = 5 * F.mse_loss(
            self.heads.place(named[row, column]).float(), batch.places[one]
        )
        hits = torch.zeros_like(wanted)
        hits[wanted] = logits.argmax(-1) == labels
        return losses | {"hits": hits}

    def _patches(self, images: Images) -> Tensor:
        pixels = images.pixels.to(self.heads.kind.weight.dtype)
        patches: Tensor = self.model.model.vision_tower(pixels).last_hidden_state[:, 1:]
        return patches

    def _language(self, tokens: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """(B, T, d) states of the questions after the look-up layer and after the last.

        Every question sees the image and itself; in a conversation also what was said before.
        """
        core = self.model.model
        embed = core.language_model.embed_tokens
        inputs = torch.cat([embed(sequence_ids(batch)), tokens, embed(batch.ids)], 1)
        front = TOKENS + 1
        block = F.pad(batch.block, (front, 0))
        visible = (block[:, None] == 0) | (block[:, None] == block[:, :, None])
        visible |= batch.talk[:, None, None]
        visible &= torch.ones(visible.shape[1:], dtype=torch.bool).tril()
        mask = torch.zeros(visible.shape, dtype=inputs.dtype).masked_fill(~visible, -1e9)
        here = torch.arange(front).expand(len(tokens), -1)
        out = core.language_model(
            inputs_embeds=inputs,
            attention_mask=mask[:, None],
            position_ids=torch.cat([here, batch.positions], 1),
            use_cache=False,
            output_hidden_states=True,
        )
        after_lookup: Tensor = out.hidden_states[LOOKUP_LAYER + 1][:, front:]
        return after_lookup, out.last_hidden_state[:, front:]

    def _log_attention(self, layer: int, heads: int, row: Tensor, column: Tensor) -> Tensor:
        """(M, heads, n) logarithm of a layer's first heads' attention from (row, text column)."""
        query, key, mask = self.seen[layer]
        column = column + TOKENS + 1
        states = query[row, :heads, column].float()
        score = torch.einsum("mhd,mhnd->mhn", states, key[row, :heads].float())
        score = score / query.shape[-1] ** 0.5 + mask[row, 0, column].float()[:, None]
        logs: Tensor = score.log_softmax(-1)
        return logs

    def _lookup(self, batch: Batch) -> Tensor:
        """Attention of the naming words should fall on the named patches (on BOS if none)."""
        logs = self._log_attention(LOOKUP_LAYER, LOOKUP_HEADS, *batch.mentions.unbind(1))
        found = logs[..., : TOKENS + 1].masked_fill(~batch.targets[:, None], float("-inf"))
        return -found.logsumexp(-1).clamp_min(-20).mean()

    def _gather(self, batch: Batch) -> Tensor:
        """Attention of a question's end should fall on its first and on its last naming word."""
        row, end, first, last = batch.ends.unbind(1)
        logs = self._log_attention(GATHER_LAYER, 2, row, end)
        named = torch.stack([first, last], 1)[..., None] + TOKENS + 1
        return -logs.gather(2, named).clamp_min(-20).mean()

    def _dense(self, patches: Tensor, batch: Images) -> dict[str, Tensor]:
        heads, sticker = self.heads, batch.kind > 0
        photo_weight = 0.15

        def weighted(logits: Tensor, labels: Tensor) -> Tensor:
            weight = torch.ones(logits.shape[-1])
            weight[0] = photo_weight
            return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), weight=weight)

        kinds = heads.kind(patches) - HANDICAP * batch.excluded

        on = patches[sticker]
        same = heads.same(on).float().unflatten(-1, (3, 6)).flatten(0, 1)
        return {
            "kind": weighted(kinds, batch.kind),
            "color": weighted(heads.color(patches), batch.color),
            "big": 0.5 * weighted(heads.big(patches), batch.big),
            "centre": 10 * F.mse_loss(heads.centre(on).float(), batch.centre[sticker]),
            "same": 0.5 * F.cross_entropy(same, batch.same[sticker].flatten()),
        }


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Plain attention, (B, h, n, d) -> (B, n, h, d); its bfloat16 gradient is twice as fast."""
    scores = query @ key.mT * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    mixed: Tensor = scores.softmax(-1) @ value
    return mixed.transpose(1, 2).contiguous()


def _alignment(tokens: Tensor, table: Tensor, batch: Images) -> dict[str, Tensor]:
    """Projected sticker tokens should point at the words for their colour, noun and place."""
    sticker = batch.kind > 0
    logits = tokens[sticker] @ table.T
    kind, centre = batch.kind[sticker] - 1, batch.centre[sticker]
    place = 2 * (centre[:, 1] > 0.5).long() + (centre[:, 0] > 0.5).long()
    handicap = HANDICAP * batch.excluded[sticker][:, 1:]
    nouns = torch.tensor([NOUNS.index(noun) for noun in NOUN_OF_KIND])
    first = torch.tensor([NOUN_OF_KIND.index(noun) for noun in NOUNS])  # a kind of each noun

    def of(words: Sequence[str]) -> Tensor:
        return logits[:, [WORD_ID[word] for word in words]]

    losses = {
        "to_color": F.cross_entropy(of(COLOR_NAMES), batch.color[sticker] - 1),
        "to_noun": F.cross_entropy(of(NOUNS) - handicap[:, first], nouns[kind]),
        "to_kind": F.cross_entropy(of(KINDS) - handicap, kind),
        "to_place": F.cross_entropy(of(PLACES), place),
    }
    return {name: 0.4 * loss for name, loss in losses.items()}


def _optimisers(learner: Learner) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for everything else."""
    named = list(learner.named_parameters())
    matrix = [p for n, p in named if p.ndim == 2 and ("layers" in n or "multi_modal" in n)]
    chosen = {id(p) for p in matrix}
    rest = [p for _, p in named if id(p) not in chosen]
    return [
        torch.optim.Muon(matrix, lr=MUON_RATE, momentum=0.95, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, steps: int, stage: str) -> float:
    """Factor on the learning rates: warm up, hold, fall to one hundredth."""
    peak = PEAK[stage]
    if step < WARM:
        return peak * (step + 1) / WARM
    done = step / steps
    return peak * (1.0 if done < DECAY_FROM else max(0.01, (1 - done) / (1 - DECAY_FROM)))


@torch.no_grad()
def evaluate(learner: Learner, photos: Any, talks: bool, batches: int = 6) -> dict[str, float]:
    """Share of questions whose whole answer is right, by kind, on the held-out world."""
    right: dict[str, list[float]] = {}
    for i in range(batches):
        batch = make_batch(photos, (SEED, 7, i), BATCH, unseen=True, talks=talks)
        hits = learner(batch)["hits"]
        for kind, (row, start, _, _) in zip(batch.kinds, batch.ends.tolist(), strict=True):
            same = batch.block[row] == batch.block[row, start]
            answer = same & (batch.labels[row] != -100)
            right.setdefault(kind, []).append(float(hits[row][answer].all()))
    return {kind: round(sum(v) / len(v), 3) for kind, v in sorted(right.items())}


def run_stage(learner: Learner, stage: str, folder: Path, recipe: Recipe) -> None:
    """Train one stage to its last step, from its last checkpoint if there is one."""
    steps, optimisers, start = getattr(recipe, stage), _optimisers(learner), 0
    checkpoint = folder / f"{stage}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        learner.load_state_dict(state["learner"])
        for optimiser, saved in zip(optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        start = state["step"]
    seen = photographs.load(folder / "photos", held_out=False)
    held_out = photographs.load(folder / "photos", held_out=True)
    seed = recipe.seed + STAGES.index(stage)
    loader = DataLoader(
        Batches(stage, seen, seed, start, steps, recipe.batch),
        batch_size=None,
        num_workers=1,
        prefetch_factor=4,
    )
    bases, began = (MUON_RATE, ADAM_RATE), time.time()
    dtype = torch.float32 if recipe.float32 else torch.bfloat16
    mean: dict[str, float] = {}
    for step, batch in enumerate(loader, start):
        for optimiser, base in zip(optimisers, bases, strict=True):
            optimiser.param_groups[0]["lr"] = base * _rate(step, steps, stage)
        # Weights and their updates are in float32.
        cast = {name: p.to(dtype) for name, p in learner.named_parameters()}
        losses = functional_call(learner, cast, (batch,))
        hits = losses.pop("hits", None)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(optimisers[1].param_groups[0]["params"], 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        values = {name: loss.item() for name, loss in losses.items()}
        if hits is not None:
            values["right"] = float(hits.sum()) / float((batch.labels != -100).sum())
        for name, value in values.items():
            mean[name] = mean.get(name, value) * 0.96 + value * 0.04
        done = step + 1
        if done % 50 == 0:
            line: dict[str, Any] = {"stage": stage, "step": done}
            line["seconds"] = round(time.time() - began, 1)
            line |= {name: round(value, 4) for name, value in mean.items()}
            if stage != "vision" and (done % EVALUATE_EVERY == 0 or done == steps):
                learner.eval()
                line["held_out"] = evaluate(learner, held_out, stage == "talks")
                learner.train()
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
        if done % SAVE_EVERY == 0 or done == steps:
            state = {"learner": learner.state_dict(), "step": done, "theta": recipe.theta}
            state["optimisers"] = [o.state_dict() for o in optimisers]
            torch.save(state, folder / "partial")
            (folder / "partial").rename(checkpoint)


def main(
    folder: Path,
    recipe: Recipe = Recipe(),
    tower: Path | None = None,
    weights: Path | None = None,
    threads: int = THREADS,
) -> None:
    torch.set_num_threads(threads)
    learner = Learner(recipe.seed, recipe.theta)
    if weights is not None:
        load_model(learner.model, weights)
    elif tower is None:
        run_stage(learner, "vision", folder, recipe)
    else:
        state = torch.load(tower / "vision.pt", weights_only=True)["learner"]
        prefix = "model.model.vision_tower."
        of_tower = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        learner.model.model.vision_tower.load_state_dict(of_tower)
    for stage in STAGES[1:]:
        run_stage(learner, stage, folder, recipe)


def load_model(model: Any, folder: Path) -> None:
    """Copy the weights of a model that `export` wrote into one of this kind."""
    of_folder = type(model).from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict(of_folder.state_dict())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the embedded model, or one of its kind.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    for stage in STAGES:
        steps = getattr(Recipe, stage)
        parser.add_argument(f"--{stage}", type=int, default=steps, help=f"steps, {steps}")
    parser.add_argument("--theta", type=float, default=THETA, help="base of the rotary embedding")
    parser.add_argument("--batch", type=int, default=BATCH, help=f"images a step, {BATCH}")
    parser.add_argument("--float32", action="store_true", help="compute in float32, not bfloat16")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--tower", type=Path, help="a run whose vision tower is taken")
    start.add_argument("--weights", type=Path, help="a finished model, to be fine-tuned")
    parser.add_argument("--threads", type=int, default=THREADS)
    given = parser.parse_args()
    chosen = Recipe(**{f.name: getattr(given, f.name) for f in fields(Recipe)})
    main(given.folder, chosen, given.tower, given.weights, given.threads)
