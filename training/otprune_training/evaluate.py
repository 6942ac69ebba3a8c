"""Measure the embedded model: `python -m otprune_training.evaluate RUN_DIR [OUT]`.

Every scene has a photograph that was held out of training and at least one combination of colour
and noun that was too. Questions are answered by stock `generate`, greedily; an
answer counts as right when all its words are. Nothing is pruned here: that is `otprune bench
quality`. With `--dense` the model of 324 tokens is measured, pruned too, beside that of 144.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import shutil
from contextlib import nullcontext
from datetime import datetime, timezone
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import otprune
from otprune.demo import load
from otprune.demo.words import UNSEEN
from otprune_training import photos
from otprune_training.batches import MIX
from otprune_training.questions import Question, ask_many
from otprune_training.scenes import render, sample_scene
from otprune_training.train import STAGES

SEED = 77
SCENES = 300
DENSE_SCENES, DENSE_KEEP = 100, 0.098
REQUIRED = {
    "existence": 0.92,
    "color": 0.92,
    "shape": 0.92,
    "position": 0.92,
    "naming": 0.92,
    "relation": 0.85,
    "count": 0.85,
    "digit": 0.85,
}

Figures = dict[str, dict[str, float]]
Asked = list[tuple[Image.Image, list[Question]]]


def scenes(folder: Path, number: int) -> Asked:
    """`number` held-out images, 384 pixels wide, and their questions."""
    rng = np.random.default_rng(SEED)
    held_out = photos.load(folder / "photos", held_out=True)
    sizes = [photo.size for photo in held_out]
    made = []
    for _ in range(number):
        scene = sample_scene(rng, sizes, unseen=True)
        kinds = [*(MIX[i] for i in rng.permutation(len(MIX))), "list"]
        questions = ask_many(scene, rng, kinds, unseen=True)
        made.append((render(scene, held_out, scale=4), questions))
    return made


@torch.no_grad()
def answer(model: Any, processor: Any, image: Image.Image, talks: list[list[str]]) -> list[str]:
    """The model's greedy answers about one image, in one batch.

    A talk is a question, or questions and answers in turn and a question at last.
    """
    prompts = [processor.apply_chat_template(_messages(talk)) for talk in talks]
    inputs = processor(
        images=[image] * len(talks),
        text=prompts,
        padding=True,
        add_special_tokens=not prompts[0].startswith(processor.tokenizer.bos_token),
        return_tensors="pt",
    )
    output = model.generate(**inputs, do_sample=False)
    answers = processor.batch_decode(
        output[:, inputs["input_ids"].shape[1] :],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [text.strip() for text in answers]


def _messages(talk: list[str]) -> list[dict[str, Any]]:
    first = [{"type": "image"}, {"type": "text", "text": talk[0]}]
    rest = [
        {"role": role, "content": text}
        for role, text in zip(itertools.cycle(("assistant", "user")), talk[1:], strict=False)
    ]
    return [{"role": "user", "content": first}, *rest]


def measure(model: Any, processor: Any, asked: Asked) -> Figures:
    """Share of right answers by kind and over "all" but lists, errors clustered by image.

    "unseen" has the questions that name an unseen combination; "fourth of a conversation" one
    question an image, behind three others with their right answers.
    """
    right: dict[str, list[list[bool]]] = {}
    for image, questions in asked:
        before, fourth = questions[:3], questions[3]
        talk = [text for question in before for text in (question.text, question.answer)]
        talks = [*([question.text] for question in questions), [*talk, fourth.text]]
        *answers, at_last = answer(model, processor, image, talks)
        of_image = {"fourth of a conversation": [at_last == fourth.answer]}
        for question, given in zip(questions, answers, strict=True):
            for kind in _groups(question):
                of_image.setdefault(kind, []).append(given == question.answer)
        for kind, hits in of_image.items():
            right.setdefault(kind, []).append(hits)
    return {kind: _summary(images) for kind, images in sorted(right.items())}


def _groups(question: Question) -> list[str]:
    words = question.text.split()
    unseen = any((noun, color) in UNSEEN for color, noun in itertools.pairwise(words))
    both = [] if question.kind == "list" else ["all"]
    return [question.kind, *both, *(["unseen"] if unseen else [])]


def _summary(images: list[list[bool]]) -> dict[str, float]:
    questions = sum(map(len, images))
    share = sum(map(sum, images)) / questions
    spread = sum((sum(hits) - share * len(hits)) ** 2 for hits in images)
    return {"accuracy": share, "standard_error": sqrt(spread) / questions, "questions": questions}


def plot_curve(log: Path, out: Path) -> None:
    """What training went through: the tower's losses, then right answers, seen and held out."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    stages = {s: [line for line in lines if line["stage"] == s] for s in STAGES}
    later = stages["language"] + stages["talks"]
    offset = max(line["step"] for line in stages["language"])

    def step(line: dict[str, Any]) -> int:
        return int(line["step"]) + (offset if line["stage"] == "talks" else 0)

    figure, (tower, answers) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in ("kind", "color", "big", "centre", "same"):
        steps = [line["step"] for line in stages["vision"]]
        tower.plot(steps, [line[name] for line in stages["vision"]], label=name)
    tower.set(title="vision", xlabel="step (32 images each)", ylabel="loss", yscale="log")
    answers.plot(
        [step(line) for line in later],
        [line["right"] for line in later],
        color="0.5",
        label="words, in training",
    )
    held_out = [line for line in later if "held_out" in line]
    for kind in REQUIRED:
        answers.plot(
            [step(line) for line in held_out],
            [line["held_out"].get(kind, float("nan")) for line in held_out],
            marker="o",
            markersize=3,
            linewidth=0.8,
            label=f"{kind}, held out",
        )
    answers.axvline(offset, color="0.7", linewidth=0.8)
    answers.set(
        title="language, then talks",
        xlabel="step (32 images each)",
        ylabel="right",
        ylim=(0.4, 1),
    )
    for axes in (tower, answers):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower right" if axes is answers else None)
    figure.savefig(out, dpi=140)
    plt.close(figure)


def markdown(report: dict[str, Any]) -> str:
    """The report as a page."""
    lines = [
        "# The embedded model on held-out scenes",
        "",
        f"`make demo-model`, {report['date']}, {report['machine']}, torch {report['torch']}, seed "
        f"{report['seed']}. Unseen photographs, unseen combinations; standard errors clustered by "
        "image.",
        "",
        f"{report['scenes']} scenes:",
        "",
        "| questions | right | standard error | number | required |",
        "| --- | --- | --- | --- | --- |",
    ]
    for kind, figure in report["unpruned"].items():
        least = report["required"].get(kind, "")
        lines.append(
            f"| {kind} | {figure['accuracy']:.3f} | {figure['standard_error']:.3f} "
            f"| {figure['questions']} | {least} |"
        )
    lines += ["", "![Losses and held-out accuracy against the step](curve.png)"]
    return "\n".join(lines) + "\n"


def main(folder: Path, out: Path) -> None:
    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    model, processor = load()
    asked = scenes(folder, SCENES)
    figures = measure(model, processor, asked)
    for kind, figure in figures.items():
        least = f"  required {REQUIRED[kind]}" if kind in REQUIRED else ""
        print(f"{kind:12s} {figure['accuracy']:.3f} +- {figure['standard_error']:.3f}{least}")
    report = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "seed": SEED,
        "scenes": SCENES,
        "unpruned": figures,
        "required": REQUIRED,
        "missed": [k for k, least in REQUIRED.items() if figures[k]["accuracy"] < least],
    }
    (out / "figures.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "report.md").write_text(markdown(report))
    shutil.copy(folder / "log.jsonl", out / "log.jsonl")
    plot_curve(out / "log.jsonl", out / "curve.png")


def dense(folder: Path, out: Path) -> None:
    """Write `dense.md` and `dense.json`: both embedded models on the same scenes."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    asked = scenes(folder, DENSE_SCENES)
    prunings: dict[str, dict[str, Any]] = {
        f"OTPrune({DENSE_KEEP})": {"selector": otprune.OTPrune(DENSE_KEEP)},
        f"DPPPrune({DENSE_KEEP}) merged, with masses": {
            "selector": otprune.DPPPrune(DENSE_KEEP),
            "merge": True,
            "mass": "token",
        },
    }
    found: dict[str, Figures] = {"144 tokens": measure(*load(), asked)}
    model, processor = load(tokens=324)
    for name, how in {"": None, **prunings}.items():
        with otprune.prune(model, **how) if how else nullcontext():
            found[f"324 tokens{', ' * bool(name)}{name}"] = measure(model, processor, asked)
    report = {"seed": SEED, "scenes": DENSE_SCENES, "torch": torch.__version__, "figures": found}
    (out / "dense.json").write_text(json.dumps(report, indent=1) + "\n")
    (out / "dense.md").write_text(dense_markdown(report))
    shutil.copy(folder / "dense.jsonl", out / "dense.jsonl")


def dense_markdown(report: dict[str, Any]) -> str:
    """The page about both embedded models: a row for each kind of question."""
    found = report["figures"]
    lines = [
        "# The embedded model with 144 and with 324 tokens",
        "",
        f"`python -m otprune_training.evaluate runs/demo --dense`, torch {report['torch']}, seed "
        f"{report['seed']}, the first {report['scenes']} scenes of [the report](report.md): share "
        "of right answers, and standard error clustered by image.",
        "",
        f"| questions | {' | '.join(found)} | number |",
        "| --- |" + " --- |" * (len(found) + 1),
    ]
    for kind, first in next(iter(found.values())).items():
        cells = [
            f"{figures[kind]['accuracy']:.3f} ± {figures[kind]['standard_error']:.3f}"
            for figures in found.values()
        ]
        lines.append(f"| {kind} | {' | '.join(cells)} | {first['questions']} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Measure the embedded model.")
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=Path("docs/results/demo_model"))
    parser.add_argument("--dense", action="store_true", help="the model of 324 tokens")
    given = parser.parse_args()
    (dense if given.dense else main)(given.run, given.out)
