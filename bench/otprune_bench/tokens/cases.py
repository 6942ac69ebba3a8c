"""`otprune bench tokens`: the token-level part on a second encoder, a pretrained ViT-S/14.

No answers here: distances, certificates, and how many of the things in an image are kept at all.
Photographs come without masks, so the things are stickers drawn on them, as everywhere in these
benches, whose masks are known to the pixel; the encoder knows nothing of stickers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from otprune.encoders import vit_s
from otprune_bench.embedded import photographs
from otprune_bench.embedded.tasks import backgrounds
from otprune_bench.figures.statistics import Estimate, clustered_mean
from otprune_bench.quality.cases import Choose, methods
from otprune_bench.quality.cases import Plan as QualityPlan
from otprune_bench.quality.plots import LOOKS
from otprune_bench.quality.summary import NAMES
from otprune_bench.runs.cases import Case, Results, failures, run_cases
from otprune_bench.runs.report import check_plots, panels, table, write_report
from otprune_training.scenes import owners, render, sample_scene

SCALE = 5  # 480 pixels: no less than the encoder's largest input
MEASURES = {
    "gaussian_w2": "Gaussian W2²",
    "exact_w2": "exact W2²",
    "free_mass_w2": "free-mass W2²",
    "certificate": "certificate",
    "evidence": "sticker tokens kept, %",
    "objects": "objects kept, %",
}
SHARES = ("evidence", "objects")


@dataclass(frozen=True)
class Plan:
    """How large a run is.

    Attributes:
        images: how many, every one with two to five stickers on another photograph.
        sizes: of the encoder's input in pixels: 256, 576 and 1024 tokens.
        photographs: whether there are photographs below; else smooth noise.
    """

    seed: int = 0
    images: int = len(photographs.NAMES)
    sizes: tuple[int, ...] = vit_s.SIZES
    keeps: tuple[float, ...] = (0.25, 0.098, 0.05)
    photographs: bool = True


QUICK = Plan(images=4, sizes=vit_s.SIZES[:1], photographs=False)


class Images:
    """The images of a run, where their stickers are, and their tokens."""

    def __init__(self, plan: Plan, photos: Path) -> None:
        self.plan = plan
        self.scenes, self.images = [], []
        for i, photo in enumerate(_below(plan, photos)):
            scene = sample_scene(np.random.default_rng((plan.seed, i)), [photo.size])
            # As much of the photograph as a square holds, from its middle.
            scene = replace(scene, box=_middle(*photo.size))
            self.scenes.append(scene)
            self.images.append(render(scene, [photo], SCALE))
        self._tokens: dict[int, list[Tensor]] = {}

    @cached_property
    def encoder(self) -> vit_s.ViTS:
        return vit_s.load()

    def tokens(self, size: int) -> list[Tensor]:
        """`(m, 384)` of every image."""
        if size not in self._tokens:
            self._tokens[size] = [self.encoder.tokens(p, size) for p in self.images]
        return self._tokens[size]

    def run(self, choose: Choose, keep: float, size: int) -> dict[str, list[float | None]]:
        """One case: every measure of every image."""
        rows = []
        for i, (scene, tokens) in enumerate(zip(self.scenes, self.tokens(size), strict=True)):
            said = choose(keep, i).explain(tokens)
            own = owners(scene, size // vit_s.PATCH)
            rows.append(
                {
                    "gaussian_w2": said.gaussian_w2_relative,
                    "exact_w2": said.exact_w2_relative,
                    "free_mass_w2": said.free_mass_w2_relative,
                    "certificate": said.certificate,
                    **_coverage(own, len(scene.stickers), said.indices),
                }
            )
        return {name: [row[name] for row in rows] for name in MEASURES}


def _middle(width: int, height: int) -> tuple[int, int, int]:
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, side


def _coverage(own: NDArray[np.int8], stickers: int, kept: Tensor) -> dict[str, float]:
    here = own[kept.numpy()]
    return {
        "evidence": float((here >= 0).sum() / (own >= 0).sum()),
        "objects": float(np.mean([(here == i).any() for i in range(stickers)])),
    }


def cases(images: Images) -> Iterable[Case]:
    """ "method@keep, m tokens"; random pruning once, since every image has a draw of its own."""
    of = methods(QualityPlan(seed=images.plan.seed, random_seeds=1))
    for size in images.plan.sizes:
        for keep in images.plan.keeps:
            for name, choose in zip(NAMES, of.values(), strict=True):
                yield (
                    _key(name, keep, size),
                    lambda c=choose, k=keep, s=size: images.run(c, k, s),  # type: ignore[misc]
                )


def run(folder: Path, plan: Plan, photos: Path) -> None:
    """Run what `folder` does not have yet, and write results, report and plot.

    Raises:
        MissingDependencyError: the encoder was not fetched, or matplotlib is not installed.
    """
    check_plots()
    images = Images(plan, photos)
    images.encoder  # noqa: B018  # what is missing is said before anything runs
    results = run_cases(folder, cases(images), "tokens", asdict(plan))
    figures = {
        key: result
        if "failed" in result
        else {name: _pair(_estimate(result[name])) for name in MEASURES}
        for key, result in results.items()
    }
    _plot(folder, plan, results)
    write_report(folder, figures, _markdown(plan, results), asdict(plan))


def _key(name: str, keep: float, size: int) -> str:
    return f"{name}@{keep}, {(size // vit_s.PATCH) ** 2} tokens"


def _estimate(values: list[float | None]) -> Estimate:
    x = np.array(values, np.float64)
    return clustered_mean(x, np.arange(len(x)))


def _pair(estimate: Estimate) -> list[float]:
    return [float(f"{x:.4g}") for x in estimate]


def _markdown(plan: Plan, results: Results) -> str:
    below = "different photographs" if plan.photographs else "images of noise (a small run)"
    parts = [
        "# A second encoder: tokens of a pretrained ViT-S/14\n",
        f"{plan.images} {below}, each with two to five stickers whose masks are known; "
        "the encoder was trained by others, on photographs without stickers. No questions are "
        "asked. Distances are between all tokens and the kept ones, raw tokens, divided by the "
        "mean squared token norm; Gaussian and exact with equal mass on the kept tokens. The "
        "certificate is value / bound for the method's own objective. Objects kept: share of a "
        "image's stickers of which a token is kept at all. ± is one standard error over "
        "images.\n",
    ]
    for size in plan.sizes:
        for keep in plan.keeps:
            rows = []
            for name in NAMES:
                result = results[_key(name, keep, size)]
                if "failed" in result:
                    rows.append([f"`{name}`", *["failed"] * len(MEASURES)])
                else:
                    cells = (_cell(measure, result[measure]) for measure in MEASURES)
                    rows.append([f"`{name}`", *cells])
            parts.append(f"## {(size // vit_s.PATCH) ** 2} tokens, keep {keep}\n")
            parts.append(table(["", *MEASURES.values()], rows) + "\n")
    parts.append("![objects kept](tokens.png)\n")
    return "\n".join([*parts, *failures(results)])


def _cell(measure: str, values: list[float | None]) -> str:
    found = _estimate(values)
    if np.isnan(found.value):
        return "-"
    scale, digits = (100, 1) if measure in SHARES else (1, 3)
    return f"{scale * found.value:.{digits}f} ± {scale * found.error:.{digits}f}"


def _plot(folder: Path, plan: Plan, results: Results) -> None:
    wide = 4.2 * len(plan.sizes) + 2
    with panels(folder, "tokens", 1, len(plan.sizes), (wide, 4.2)) as grid:
        for axes, size in zip(grid, plan.sizes, strict=True):
            for i, name in enumerate(NAMES):
                found = {
                    keep: _estimate(result["objects"])
                    for keep in plan.keeps
                    if "failed" not in (result := results[_key(name, keep, size)])
                }
                axes.errorbar(
                    [keep * 1.015 ** (i - len(NAMES) / 2) for keep in found],
                    [e.value for e in found.values()],
                    yerr=[1.96 * e.error for e in found.values()],
                    markersize=4,
                    linewidth=1.2,
                    capsize=2,
                    label=name,
                    **LOOKS[name],
                )
            axes.set(title=f"{(size // vit_s.PATCH) ** 2} tokens", ylim=(0, 1.04), xscale="log")
            axes.set_xticks(plan.keeps, [f"{keep:g}" for keep in plan.keeps])
            axes.minorticks_off()
            axes.set_xlabel("tokens kept (share)")
        grid[0].set_ylabel("objects of which a token is kept")
        grid[-1].legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _below(plan: Plan, photos: Path) -> list[Image.Image]:
    if not plan.photographs:
        return backgrounds(plan.images, plan.seed)
    return photographs.load(photos)[: plan.images]
