"""How good what was kept of a clip is."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from otprune.measures import distances
from otprune.streaming.novelty import NOISE
from otprune_bench.robot.choices import Choice
from otprune_bench.robot.plan import ARM, OBJECT
from otprune_bench.robot.sources import Source

REGIONS = {"": None, "_arm": ARM, "_object": OBJECT}


def score(source: Source, choice: Choice, every: int) -> dict[str, Any]:
    """Every measure of `plan.MEASURES` that the source has; None where it has not.

    Errors are squared distances between a frame's tokens and what stands for them, over the
    variance of the clip's tokens. *In place*: the token kept last in the same place; the clip's
    mean token where none was kept yet. *Anywhere*: the nearest of all tokens kept so far. Those
    anywhere and the distances see every `every`-th frame, since they take long.
    """
    tokens, kept = source.tokens, choice.kept
    full = tokens[every - 1 :: every].flatten(0, 1)
    chosen = torch.cat([x[i] for x, i in zip(tokens, kept, strict=True)])
    size = float(full.double().square().sum(dim=-1).mean())
    return {
        "tokens": choice.mean,
        **_where(source, kept),
        **_events(source, kept),
        **_errors(source, kept, every),
        "gaussian_w2": distances.gaussian_w2(full, chosen) / size,
        "free_mass_w2": distances.free_mass_w2(full, chosen) / size,
        "milliseconds": 1e3 * statistics.median(choice.seconds),
        "setting": choice.setting,
    }


def _where(source: Source, kept: list[Tensor]) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, label in (("arm", ARM), ("object", OBJECT)):
        if source.owner is None or not (source.owner == label).any():
            found |= {name: None, f"{name}_covered": None}
            continue
        there = source.owner == label
        hits = np.array([there[t, i.numpy()].sum() for t, i in enumerate(kept)])
        size = there.sum(axis=1)
        found[name] = float(hits.sum() / max(1, sum(map(len, kept))))
        found[f"{name}_covered"] = float((hits / size.clip(1))[size > 0].mean())
    return found


def _events(source: Source, kept: list[Tensor]) -> dict[str, float | None]:
    """Of what comes in or first moves: whether a token is kept at once, and after how many frames.

    What is never kept counts as seen after its last frame.
    """
    lags = []
    for event in source.events:
        later = enumerate(event.patches)
        hit = (i for i, there in later if there[kept[event.frame + i].numpy()].any())
        lags.append(next(hit, len(event.patches)))
    if not lags:
        return {"seen": None, "lag": None}
    return {"seen": statistics.mean(lag == 0 for lag in lags), "lag": statistics.mean(lags)}


def _errors(source: Source, kept: list[Tensor], every: int) -> dict[str, float | None]:
    tokens = source.tokens
    mean = tokens.mean(dim=(0, 1))
    variance = (tokens - mean).square().sum(dim=-1).mean()
    last = mean.expand_as(tokens[0]).clone()
    bank: list[Tensor] = []
    sums: dict[str, list[float]] = {f"{k}{r}": [] for k in ("place", "look") for r in REGIONS}
    for t, (x, indices) in enumerate(zip(tokens, kept, strict=True)):
        last[indices] = x[indices]
        bank.append(x[indices])
        errors = {"place": (x - last).square().sum(dim=-1) / variance}
        if t % every == every - 1:
            near = torch.cat(bank) if any(map(len, bank)) else mean[None]
            errors["look"] = torch.cdist(x, near).amin(dim=1).square() / variance
        for region, label in REGIONS.items():
            there = torch.ones(len(x), dtype=torch.bool)
            if label is not None:
                if source.owner is None or not (source.owner[t] == label).any():
                    continue
                there = torch.from_numpy(source.owner[t] == label)
            for kind, error in errors.items():
                sums[f"{kind}{region}"].append(float(error[there].mean()))
    return {name: statistics.mean(values) if values else None for name, values in sums.items()}


def whereabouts(source: Source, kept: list[Tensor]) -> dict[str, float] | None:
    """What the tokens kept last in their places say of where the arm is.

    Returns:
        arm: share of the tokens kept after the first frame that are on the arm.
        missed: share of the arm's patches whose last kept token is not of the arm.
        ghosts: patches a frame whose last kept token is of the arm, which has left.
    """
    if source.owner is None or not (source.owner == ARM).any():
        return None
    arm = source.owner == ARM
    shown = np.zeros(arm.shape[1], bool)
    missed, ghosts = 0, 0
    for there, indices in zip(arm, kept, strict=True):
        shown[indices.numpy()] = there[indices.numpy()]
        missed += int((there & ~shown).sum())
        ghosts += int((shown & ~there).sum())
    later = [there[i.numpy()] for there, i in zip(arm[1:], kept[1:], strict=True)]
    return {
        "arm": float(np.concatenate(later).mean()) if any(map(len, later)) else 0.0,
        "missed": missed / int(arm.sum()),
        "ghosts": ghosts / len(arm),
    }


def known_looks(source: Source, kept: list[Tensor], every: int) -> dict[str, Any] | None:
    """Why an arm that moves is not news: novelty of its tokens in places where it was not before.

    Places of the arm whose token's cosine to the one there in the first frame is below 0.9; the
    novelty of `StreamSelector`, beside all that was kept before the frame, without its sketch.
    """
    if source.owner is None or not (source.owner == ARM).any():
        return None
    points = torch.nn.functional.normalize(source.tokens.double(), dim=-1)
    found: list[Tensor] = []
    for t in range(every, len(points), every):
        rows = torch.cat([points[s][kept[s]] for s in range(t)])
        x = points[t][torch.from_numpy(source.owner[t] == ARM)]
        first = points[0][torch.from_numpy(source.owner[t] == ARM)]
        x = x[(x * first).sum(dim=-1) < 0.9]
        gram = rows @ rows.mT + NOISE * torch.eye(len(rows), dtype=torch.float64)
        known = torch.linalg.solve(gram, rows @ x.mT)
        found.append(1 - (known * (rows @ x.mT)).sum(dim=0))
    novelty = torch.cat(found)
    if not len(novelty):
        return None
    return {
        "tokens": len(novelty),
        "median": float(novelty.median()),
        "below": float((novelty < 0.05).double().mean()),
    }
