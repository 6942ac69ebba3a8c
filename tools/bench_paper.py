"""The paper's table: what was published for LLaVA-1.5-7B, and beside it what is measured here.

    make bench-paper MODEL=llava-hf/llava-1.5-7b-hf
    python -m tools.bench_paper --model MODEL [--tasks gqa,pope] [--rows full,cdpruner]
        [--row method=transport,question=0.8] [--limit 100]

`--rows` takes the paper's rows, and every method by its name at the paper's number of tokens;
`--row` adds one of any arguments of the plugin. Each row is one run of lmms-eval with the plugin
`otprune_hf`, kept under `--out`; a row that is there already is not run again. A row that fails is
shown as failed. Benchmarks and model come from the Hugging Face hub or its local cache.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from otprune.asking.sources import HUB_TIMEOUT, find
from otprune.errors import MissingDependencyError, OTPruneError
from otprune.selectors import METHODS
from otprune_bench.runs.report import table

KEEP = 0.098


@dataclass(frozen=True)
class Benchmark:
    """A column: lmms-eval's task, its metric that the paper's figures are of, and a factor."""

    label: str
    task: str
    metric: str
    factor: float = 1


# Where lmms-eval has several metrics for what the paper calls by one name, the unpruned model's
# figure tells which was meant (POPE: F1); where none is published here, the usual one stands.
BENCHMARKS = (
    Benchmark("COCO", "coco2017_cap_val", "coco_CIDEr", 100),
    Benchmark("Flickr30k", "flickr30k_test", "flickr_CIDEr", 100),
    Benchmark("GQA", "gqa", "exact_match", 100),
    # Counted by rule: `mmbench_en_dev` asks a paid judge where an answer is no plain letter.
    Benchmark("MMB", "mmbench_en_dev_static", "gpt_eval_score"),
    Benchmark("MME-P", "mme", "mme_perception_score"),
    Benchmark("MMMU", "mmmu_val", "mmmu_acc", 100),
    Benchmark("NoCaps", "nocaps_val", "nocaps_CIDEr", 100),
    Benchmark("OK-VQA", "ok_vqa_val2014", "exact_match", 100),
    Benchmark("POPE", "pope", "pope_f1_score", 100),
    Benchmark("SQA", "scienceqa_img", "exact_match", 100),
    Benchmark("SEED", "seedbench", "seed_image", 100),
)

# arXiv 2602.20205, LLaVA-1.5-7B at 0.098 of the visual tokens.
PUBLISHED: dict[str, dict[str, float]] = {
    "full": {"TFLOP": 3.228, "GQA": 61.96, "MMB": 64.09, "MME-P": 1506, "POPE": 85.84,
             "SQA": 69.41},
    "FastV": {"TFLOP": 0.514, "GQA": 38.73, "MMB": 20.62, "MME-P": 696, "POPE": 32.84,
              "SQA": 65.15, "rank": 8.41},
    "VTW": {"TFLOP": 0.603, "GQA": 38.94, "MMB": 21.31, "MME-P": 681, "POPE": 25.35,
            "SQA": 65.29, "rank": 8.23},
    "DivPrune": {"TFLOP": 0.512, "GQA": 56.85, "MMB": 59.19, "MME-P": 1328, "POPE": 86.02,
                 "SQA": 68.27, "rank": 3.23},
    "OTPrune": {"TFLOP": 0.512, "GQA": 56.62, "MMB": 60.40, "MME-P": 1368, "POPE": 79.59,
                "SQA": 68.42, "rank": 2.36},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A measured row.

    Attributes:
        published: the published row that it stands below; None where there is none.
        label: in the table.
        arguments: the plugin's.
    """

    published: str | None
    label: str
    arguments: str


ROWS = {
    "full": Row("full", "full", "keep=1.0"),
    "divprune": Row("DivPrune", "DivPrune", f"keep={KEEP},method=divprune,positions=compact"),
    "otprune": Row(
        "OTPrune",
        "OTPrune, as published",
        f"keep={KEEP},method=otprune,gamma=0.01,positions=compact",
    ),
    "scaled": Row(None, "OTPrune, our defaults", f"keep={KEEP},method=otprune"),
}


def rows_of(names: str, more: Sequence[str]) -> dict[str, Row]:
    """The rows that `--rows` and `--row` ask for, by name; the name is that of their folder.

    Args:
        names: keys of `ROWS` and names of methods, with commas.
        more: the plugin's arguments of further rows, each NAME=VALUE,...; keep may be left out.

    Raises:
        OTPruneError: there is no such row, or arguments have another form.
    """
    found: dict[str, Row] = {}
    for name in names.split(",") if names else ():
        if name not in ROWS and name not in METHODS:
            known = ",".join(dict.fromkeys((*ROWS, *METHODS)))
            raise OTPruneError(f"no row {name!r}: expected some of {known}")
        found[name] = ROWS.get(name) or Row(None, name, f"keep={KEEP},method={name}")
    for text in more:
        given = [part.partition("=") for part in text.split(",")]
        if not all(name and value for name, _, value in given) or "/" in text:
            raise OTPruneError(
                f"--row {text}: expected NAME=VALUE,..., such as method=transport,question=0.8"
            )
        names_given = [name for name, *_ in given]
        if "pretrained" in names_given:
            raise OTPruneError(f"--row {text}: the model is that of --model, leave pretrained out")
        first = "" if "keep" in names_given else f"keep={KEEP},"
        found[text] = Row(None, text, first + text)
    return found


def main(arguments: list[str]) -> int:
    """Run what is missing, print the table; 0, or 1 if a row failed."""
    options = _parse(arguments)
    tasks = options.tasks.split(",")
    rows = rows_of(options.rows, options.row)
    place = find(options.model).place
    if find_spec("lmms_eval") is None:
        raise MissingDependencyError(
            "the benchmarks need lmms-eval, which is not installed: pip install 'otprune[lmms]'"
        )
    check_hub(tasks)
    measured = {}
    for name, row in rows.items():
        model_args = f"pretrained={place},{row.arguments}"
        folder = options.out / name
        found = results_of(folder, model_args, tasks, options.limit)
        if found is None:
            run(folder, model_args, tasks, options)
            found = results_of(folder, model_args, tasks, options.limit)
        measured[name] = found
    print(render(options.model, rows, measured, tasks, options.limit))
    return int(None in measured.values())


def check_hub(tasks: list[str]) -> None:
    """Fail at once, and not after a quarter of an hour of retries for each benchmark.

    Raises:
        OTPruneError: one of the paper's benchmarks is wanted, and there is no hub to get it from.
    """
    if os.environ.get("HF_HUB_OFFLINE") == "1" or not {b.task for b in BENCHMARKS} & set(tasks):
        return
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info("lmms-lab-encoder/GQA", timeout=HUB_TIMEOUT)
    except Exception as cause:
        raise OTPruneError(
            "the benchmarks' data come from the Hugging Face hub, which cannot be reached; with "
            "all of it in the cache, set HF_HUB_OFFLINE=1"
        ) from cause


def run(folder: Path, model_args: str, tasks: list[str], options: argparse.Namespace) -> None:
    """One run of lmms-eval; its results go to `folder`, what it says to stderr."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "otprune_hf"]
    command += ["--model_args", model_args, "--tasks", ",".join(tasks)]
    command += ["--batch_size", str(options.batch_size), "--output_path", str(folder)]
    command += ["--log_samples"]
    if options.limit is not None:
        command += ["--limit", str(options.limit)]
    if options.include_path is not None:
        command += ["--include_path", str(options.include_path)]
    print(*command, file=sys.stderr)
    subprocess.run(command, stdout=sys.stderr, check=False)  # it says 0 even where it failed


def results_of(
    folder: Path, model_args: str, tasks: list[str], limit: int | None
) -> dict[str, Any] | None:
    """lmms-eval's newest results for these very arguments, None if there are none."""
    for file in sorted(folder.glob("**/*_results.json"), reverse=True):
        found: dict[str, Any] = json.loads(file.read_text())
        config = found["config"]
        same = config["model_args"] == model_args and config["limit"] == limit
        if same and set(tasks) <= set(found["results"]):
            return found
    return None


def render(
    model: str,
    rows: Mapping[str, Row],
    measured: dict[str, dict[str, Any] | None],
    tasks: list[str],
    limit: int | None,
) -> str:
    """The table in Markdown: published rows, and below each the measured one.

    Args:
        model: what was measured.
        rows: what each name stands for.
        measured: name of a row to lmms-eval's results, None where the run failed.
        tasks: of lmms-eval; those outside the paper get a column each.
        limit: how many questions of each task, None for all.
    """
    columns = [b for b in BENCHMARKS if b.task in tasks]
    other = [task for task in tasks if task not in {b.task for b in BENCHMARKS}]
    head = ["", "TFLOP", "tokens", *(b.label for b in columns), *other, "average rank"]
    lines = []
    for name, figures in PUBLISHED.items():
        cells = [_said(figures.get(b.label)) for b in columns] + ["-"] * len(other)
        tflop = f"{figures['TFLOP']:.3f}"
        lines.append([f"{name}, published", tflop, "-", *cells, _said(figures.get("rank"))])
        lines += [_line(row, columns, other) for row in _below(name, rows, measured)]
    lines += [_line(row, columns, other) for row in _below(None, rows, measured)]
    first = f" (the first {limit} questions of each task)" if limit is not None else ""
    return "\n".join(
        [
            f"Published: LLaVA-1.5-7B, keep {KEEP}. Measured: {model}{first}.",
            "",
            table(head, lines),
            "",
            "Metrics: " + "; ".join(f"{b.label} {b.task}/{b.metric}" for b in columns),
            "The average rank is among the paper's methods on 11 benchmarks: not measured here.",
        ]
    )


def _below(
    published: str | None,
    rows: Mapping[str, Row],
    measured: dict[str, dict[str, Any] | None],
) -> list[tuple[str, dict[str, Any] | None]]:
    return [
        (rows[n].label, found) for n, found in measured.items() if rows[n].published == published
    ]


def _line(
    row: tuple[str, dict[str, Any] | None], columns: list[Benchmark], other: list[str]
) -> list[str]:
    label, found = row
    if found is None:
        return [f"{label}, measured", "-", *["failed"] * (1 + len(columns) + len(other)), "-"]
    speed = found.get("throughput", {})
    tokens = speed.get("avg_visual_tokens_after")
    cells = [_figure(found["results"][b.task], b.metric, b.factor) for b in columns]
    cells += [_figure(found["results"][task], None, 1) for task in other]
    return [f"{label}, measured", "-", "-" if tokens is None else f"{tokens:.0f}", *cells, "-"]


def _figure(result: dict[str, Any], metric: str | None, factor: float) -> str:
    """A metric (None: the first) in lmms-eval's results of one task, whatever its filter."""
    for key, value in result.items():
        name = key.split(",")[0]
        number = isinstance(value, (int, float)) and not name.endswith("_stderr")
        if number and metric in (None, name):
            return _said(value * factor)
    return "-"


def _said(figure: float | None) -> str:
    if figure is None:
        return "-"
    return f"{figure:.0f}" if figure >= 200 else f"{figure:.2f}"


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench_paper", description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a Hugging Face model or a local folder")
    parser.add_argument("--out", type=Path, default=Path("runs/paper"))
    parser.add_argument(
        "--rows", default=",".join(ROWS), help="these or names of methods; default: %(default)s"
    )
    parser.add_argument(
        "--row",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="a row more, arguments of the plugin; may be repeated",
    )
    parser.add_argument("--tasks", default=",".join(b.task for b in BENCHMARKS))
    parser.add_argument("--limit", type=int, help="only so many questions of each task")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--include-path", type=Path, help="a folder with more tasks")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except OTPruneError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
