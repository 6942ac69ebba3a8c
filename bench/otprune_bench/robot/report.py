"""The robot bench in words, tables, plots and one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otprune_bench.figures.plots import legend_beside
from otprune_bench.robot import plan as names
from otprune_bench.robot.plan import MADE, MEASURES, Plan, key
from otprune_bench.robot.summary import points
from otprune_bench.runs.cases import Results, failures
from otprune_bench.runs.report import COLORS, figure, panels, table

Figures = dict[str, Any]

HEAD = """# A robot's camera: selectors of streams at equal tokens

Frames of a fixed camera on a robot arm (scripted experts of Meta-World on MuJoCo, {size} x {size}
pixels, {frames} frames of {milliseconds:g} ms), whose segmentation says which patches show the arm
and which the object that moves; real clips of a fixed and of a moving camera; and stickers that
drift over smooth noise. Tokens of episodes and clips are those of the pretrained ViT-S/14, 256 a
frame; of the stickers the embedded model's, 144. A simulator has no sensor: *noise* is the standard
deviation, in grey levels, of what was added to its pixels.

Every method is set to keep the same number of tokens a frame on average, the first frame among
them: by its threshold (`dtd`, `static patches`), its rate (`fixed camera`, `stream`), its ratio
(`vidcom2`) or directly. Settings are found on the very clip, which no method would know as it comes
in; `fixed camera` and `stream` would keep to their rate without. `evs`, `vidcom2` and
`all frames at hand` (`select_video`) need the whole clip. With its threshold found so, `dtd` and
`evs` are one rule, and keep the same."""

WORDS = """- *kept ones on the arm, on the object*: share of the kept tokens whose patch shows it;
  *covered*: share of its patches that are kept, mean over frames.
- *seen at once*: whether a token of the object is kept in the very frame in which it first moves by
  5 mm (of stickers: comes in); *frames until seen*: how many later.
- *error in place*: squared distance of a frame's tokens to those kept last in their places, over
  the variance of the clip's tokens (the mean token where none was kept); *error anywhere*: to the
  nearest of all tokens kept so far. Means over the frame, over the arm, over the object.
- Distances: squared 2-Wasserstein distances between all tokens of the clip and the kept ones, over
  the mean squared token norm. They and the errors anywhere see every {every}th frame.
- *ms a frame*: median time of the selection on one frame, of whole-clip methods the mean.

Times are by the clock, of a machine that did other things too. ± is one standard error over the
episodes. To keep the first frame whole takes {whole:.1f} tokens a
frame of an episode."""

WHY = """## Why an arm that moves is not news to `stream`

Of the arm's tokens in places that the arm was not in at the start, {below:.0%} have a novelty below
0.05 beside what `stream` has kept by then (median {median:.3f}): the arm looks in its new place as
it did in the old one, and a few hundred kept tokens span most of what a ViT-S/14 says of a scene.
So `stream` keeps {kept:.1f} tokens a frame at a rate of {rate}. A lower `novelty` makes it spend
the rate. What it cannot say is *where* something is: its error anywhere is low and its error in
place is not. `dtd` compares with the frame before, kept or not: what moves slower than its
threshold a frame is never kept, and the place that something left is repaired only if it changes
enough at once. `fixed camera` compares with the token kept last in the place, so that both are
kept."""


WHEREABOUTS = """## Tokens on the arm, and what is known of it

More tokens on the arm do not mean that more is known of it. In {episode} at {rate} tokens a frame
(`stream` as it is, with fewer), *kept on the arm* is the share of the tokens kept after the first
frame. *Missed* are the arm's patches whose last kept token is not of the arm; *ghosts* are patches
a frame whose last kept token is of the arm, which has left. `dtd`, `static patches` and `vidcom2`
keep the same part of the arm again and again."""


def write(plan: Plan, found: Results, figures: Figures) -> str:
    """The report in Markdown."""
    head = HEAD.format(size=names.SIZE, frames=names.FRAMES, milliseconds=12.5 * names.EVERY)
    parts = [head, _missing(plan, found), *failures(found)]
    parts.append(WORDS.format(whole=256 / names.FRAMES, every=plan.every))
    episodes = [key("episodes", noise) for noise in plan.noises]
    for group in [*reversed(episodes), *plan.clips, MADE]:
        if group in figures:
            parts += _group(group, figures[group])
    looks: dict[str, Any] = next((figures[g] for g in reversed(episodes) if g in figures), {})
    if "known looks" in looks:
        parts.append(
            WHY.format(
                **{k: v["mean"] for k, v in looks["known looks"].items()},
                kept=looks["alone"][f"{names.STREAM}, rate {names.RATE}"]["tokens"]["mean"],
                rate=names.RATE,
            )
        )
        parts.append("![Errors by tokens a frame](errors.png)")
    if "kept" in (shown := _shown(plan, found)):
        said = WHEREABOUTS.format(episode=names.PICTURE, rate=names.RATE)
        rows = [
            [m, f"{one['arm']:.0%}", f"{one['missed']:.0%}", f"{one['ghosts']:.1f}"]
            for m, one in shown["whereabouts"].items()
        ]
        parts += [said, table(["", "kept on the arm", "missed", "ghosts"], rows)]
        parts.append(f"![What is kept of some frames of {names.PICTURE}](kept.png)")
    parts.append("![Tokens kept of each frame](frames.png)")
    return "\n\n".join(part for part in parts if part)


def _shown(plan: Plan, found: Results) -> dict[str, Any]:
    """The episode of the picture; empty where it was not run."""
    return found.get(key(names.PICTURE, plan.noises[-1]), {})


def _missing(plan: Plan, found: Results) -> str:
    wanted = [key(name, noise) for name in plan.episodes for noise in plan.noises]
    left = [name for name in [*wanted, *plan.clips] if name not in found]
    return f"Left out, since its file was not there: {', '.join(left)}." if left else ""


def _group(group: str, one: dict[str, Any]) -> list[str]:
    clips = f", {one['clips']} clips" if one["clips"] > 1 else ""
    encoder = one["encoder_milliseconds"]["mean"]
    fixed = one["alone"][f"{names.FIXED}, rate {names.RATE}"]["milliseconds"]["mean"]
    parts = [
        f"## {group}{clips}",
        f"The encoder took {encoder:.0f} ms a frame; with `fixed camera` behind it that is "
        f"{1e3 / (encoder + fixed):.1f} Hz.",
    ]
    columns = [m for m in MEASURES if any(m in row for row in one["alone"].values())]
    for point in points(one):
        title = {
            "alone": "As they are, each with its own number of tokens",
            names.OWN: f"{names.OWN.capitalize()} keeps at rate {names.RATE}",
        }.get(point, f"{point} tokens a frame")
        rows = [
            [method, *(_cell(row.get(m), *MEASURES[m][1:]) for m in columns)]
            for method, row in one[point].items()
        ]
        parts += [f"**{title}**", table(["", *(MEASURES[m][0] for m in columns)], rows)]
    return parts


def _cell(value: dict[str, float] | None, scale: float, unit: str, digits: int) -> str:
    if value is None:
        return "-"
    error = value["standard_error"]
    text = f"{scale * value['mean']:.{digits}f}{unit}"
    return f"{text} ± {scale * error:.{digits}f}" if error else text


def draw(folder: Path, plan: Plan, found: Results, figures: Figures, data: Path) -> None:
    """All plots, and the picture where its episode was run."""
    _draw_frames(folder, plan, found)
    group = key("episodes", plan.noises[-1])
    if group in figures:
        _draw_errors(folder, plan, figures[group])
    if "kept" in (shown := _shown(plan, found)):
        with np.load(data / f"{names.PICTURE}.npz") as stored:
            _draw_kept(folder, stored["frames"], shown)


def _draw_errors(folder: Path, plan: Plan, one: dict[str, Any]) -> None:
    """Errors against tokens a frame."""
    looks = {
        "place": "error in place, whole frame",
        "place_arm": "error in place, arm",
        "look": "error anywhere, whole frame",
    }
    with panels(folder, "errors", 1, len(looks), (13, 4)) as grid:
        for axes, (measure, title) in zip(grid, looks.items(), strict=True):
            for i, method in enumerate(names.METHODS):
                if method == names.EVS:  # the same as dtd
                    continue
                rows = [one[point][method] for point in map(str, plan.tokens)]
                axes.plot(
                    [row["tokens"]["mean"] for row in rows],
                    [row[measure]["mean"] for row in rows],
                    marker="osD^vP<>"[i],
                    markersize=4,
                    color=COLORS[i],
                    label=f"{method}, evs" if method == names.DTD else method,
                )
            axes.set_yscale("log")
            axes.set(title=title, xlabel="tokens a frame")
        legend_beside(grid[-1])


def _draw_frames(folder: Path, plan: Plan, found: Results) -> None:
    """Tokens kept of each frame: one episode and the real clips, or what there is."""
    wanted = [key(names.PICTURE, plan.noises[-1]), *plan.clips, MADE]
    there = [name for name in wanted if "per frame" in found.get(name, {})][:3]
    shown = (names.STREAM, names.LOW, names.FIXED, names.DTD, names.STATIC)
    if not there:
        return
    with panels(folder, "frames", 1, len(there), (4.2 * len(there) + 2.5, 3.8)) as grid:
        for axes, name in zip(grid, there, strict=True):
            each = found[name]["per frame"]
            for i, method in enumerate(shown):
                axes.step(
                    range(len(each[method])),
                    each[method],
                    where="mid",
                    color=COLORS[i],
                    linewidth=1,
                    label=method,
                )
            for event in set(found[name]["events"]):
                axes.axvline(event, color=COLORS[7], linestyle="--", linewidth=1)
            axes.set_yscale("symlog", linthresh=8)
            axes.set_ylim(bottom=0)
            axes.set(title=name, xlabel="frame")
        grid[0].set_ylabel("tokens kept")
        legend_beside(grid[-1])


def _draw_kept(folder: Path, images: NDArray[np.uint8], case: dict[str, Any]) -> None:
    """Kept patches as they are, all others dimmed; a row a method."""
    rows = (names.STREAM, names.LOW, names.FIXED, names.DTD, names.STATIC, names.VIDCOM2)
    event = case["events"][0] if case["events"] else 20
    end = len(images) - 1
    columns = sorted({t for t in (0, 5, 10, *range(event, event + 25, 8), end) if t <= end})
    grid = images.shape[1] // 14
    lines = []
    for method in rows:
        cells = []
        for t in columns:
            on = np.zeros(grid * grid, bool)
            on[case["kept"][method][t]] = True
            mask = np.kron(on.reshape(grid, grid), np.ones((14, 14)))[..., None]
            dim = 235 - 0.3 * (255 - images[t].astype(np.float64))
            cells.append(np.where(mask > 0, images[t], dim).astype(np.uint8))
        lines.append(np.concatenate(cells, axis=1))
    with figure(folder, "kept", (1.2 * len(columns) + 2.2, 1.2 * len(rows) + 0.3)) as axes:
        axes.imshow(np.concatenate(lines))
        side = images.shape[1]
        axes.set_xticks(
            [side * (i + 0.5) for i in range(len(columns))],
            [f"frame {t}" + (", moves" if t == event else "") for t in columns],
        )
        axes.set_yticks([side * (i + 0.5) for i in range(len(rows))], rows)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.xaxis.tick_top()
