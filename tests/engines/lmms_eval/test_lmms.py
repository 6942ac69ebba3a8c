"""lmms-eval itself runs the plugin, on a task of ours: its answers are those of plain otprune."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [
    pytest.mark.lmms,
    pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is not installed"),
]

TORCHVISION_OPS = Path(__file__).parent / "torchvision_ops"


@pytest.fixture(scope="module", autouse=True)
def torchvision_operators():
    """transformers imports torchvision in this process too; see the file."""
    return runpy.run_path(str(TORCHVISION_OPS / "sitecustomize.py"))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    from otprune_bench import stickers

    folder = tmp_path_factory.mktemp("task")
    stickers.write(folder, number=2)
    return folder


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    for name, value in {
        "PYTHONPATH": str(TORCHVISION_OPS),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "huggingface"),
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


def lmms_eval(*arguments):
    command = [sys.executable, "-m", "lmms_eval", "--model", "otprune_hf", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ)


def evaluate(task, out, model_args, *more):
    done = lmms_eval(
        *("--model_args", model_args, "--tasks", "otprune_stickers", "--include_path", task),
        *("--output_path", out, "--log_samples", *more),
    )
    assert list(out.glob("**/*_results.json")), done.stdout + done.stderr
    (results,) = out.glob("**/*_results.json")
    (samples,) = out.glob("**/*_samples_otprune_stickers.jsonl")
    answers = {}
    for line in samples.read_text().splitlines():
        sample = json.loads(line)
        answers[sample["doc_id"]] = sample["filtered_resps"]
    return done, json.loads(results.read_text()), [answers[i] for i in sorted(answers)]


def docs(task):
    return [json.loads(line) for line in (task / "questions.jsonl").read_text().splitlines()]


def ask(model, processor, doc):
    image = Image.open(doc["image"])
    inputs = processor(images=[image], text=f"<image>{doc['question']}", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    return processor.decode(answer, skip_special_tokens=True).strip()


def test_lmms_eval_finds_the_model_by_its_entry_point():
    from lmms_eval.models import get_model

    (point,) = entry_points(group="lmms_eval.models", name="otprune")
    assert point.load()().model_id == "otprune_hf"
    model = get_model("otprune_hf")
    assert (model.__name__, model.is_simple) == ("OTPruneHF", False)


def test_keep_one_gives_the_answers_of_the_unpruned_model(task, tmp_path):
    from otprune import demo

    _, results, answers = evaluate(task, tmp_path / "out", "keep=1.0")
    model, processor = demo.load()
    assert answers == [ask(model, processor, doc) for doc in docs(task)]
    assert results["throughput"]["avg_visual_tokens_after"] == 144
    right = [answer == doc["answer"] for answer, doc in zip(answers, docs(task), strict=True)]
    measured = results["results"]["otprune_stickers"]["exact_match,none"]
    assert measured == pytest.approx(sum(right) / len(right))


def test_pruned_answers_are_those_of_prune_with_the_same_settings(task, tmp_path):
    import otprune
    from otprune import demo

    settings = "keep=0.098,method=otprune,gamma=0.01,rank=64,merge=True,positions=compact"
    place = f"pretrained={demo.MODEL_DIR},{settings}"
    _, results, answers = evaluate(task, tmp_path / "out", place, "--batch_size", 4)
    model, processor = demo.load()
    selector = otprune.OTPrune(0.098, gamma=0.01, rank=64)
    with otprune.prune(model, selector, positions="compact", merge=True):
        expected = [ask(model, processor, doc) for doc in docs(task)]
    assert answers == expected
    assert expected != [ask(model, processor, doc) for doc in docs(task)], "pruning shows"
    speed = results["throughput"]
    assert (speed["avg_visual_tokens_before"], speed["avg_visual_tokens_after"]) == (144, 14)
    assert speed["avg_selector_seconds"] > 0


def test_the_encoder_s_stage_is_that_of_prune(task, tmp_path):
    import otprune
    from otprune import demo

    settings = "keep=0.25,encoder_keep=0.35,encoder_after=3"
    _, _, answers = evaluate(task, tmp_path / "out", settings)
    model, processor = demo.load()
    stage = otprune.EncoderStage(0.35, after=3)
    with otprune.prune(model, otprune.OTPrune(0.25), encoder=stage):
        assert answers == [ask(model, processor, doc) for doc in docs(task)]


def test_a_method_that_hears_the_question_and_a_stage_inside_the_language_model(task, tmp_path):
    import otprune
    from otprune import demo

    settings = "keep=0.25,method=transport,question=0.8"
    settings += ",layer_rank=fastv,layer_after=2,layer_keep=0.5"
    _, _, answers = evaluate(task, tmp_path / "out", settings)
    model, processor = demo.load()
    selector = otprune.TransportPrune(0.25, question=0.8)
    with otprune.prune(model, selector, layers=otprune.LayerStage(2, 0.5)):
        assert answers == [ask(model, processor, doc) for doc in docs(task)]


def test_a_method_of_ones_own(task, tmp_path):
    """In the current directory, which `python -m` has on the path."""
    import otprune
    from otprune import demo

    example = Path(__file__).parents[3] / "examples" / "own_selector.py"
    (tmp_path / "mine.py").write_text(example.read_text())
    selector = runpy.run_path(str(example))["FarthestPoints"](0.05)
    _, _, answers = evaluate(task, tmp_path / "out", "keep=0.05,method=mine:FarthestPoints")
    model, processor = demo.load()
    with otprune.prune(model, selector):
        assert answers == [ask(model, processor, doc) for doc in docs(task)]


def test_a_stage_without_a_keep_is_refused():
    from otprune.engines.lmms_eval.model import OTPruneHF
    from otprune.errors import OTPruneError

    with pytest.raises(OTPruneError, match="encoder_keep is missing"):
        OTPruneHF(encoder_after=0.5)


def test_a_wrong_argument_is_named(task, tmp_path):
    done = lmms_eval(
        *("--model_args", "keep=0.1,method=grid,gamma=0.01"),
        *("--tasks", "otprune_stickers", "--include_path", task),
    )
    assert (
        "gamma is not a setting of method grid: it belongs to otprune" in done.stdout + done.stderr
    )


def test_several_processes_are_refused(monkeypatch):
    from otprune.engines.lmms_eval.model import OTPruneHF
    from otprune.errors import UnsupportedError

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UnsupportedError, match="one process"):
        OTPruneHF()


def test_the_paper_s_table_stands_beside_what_was_measured(task, capfd, monkeypatch):
    from otprune import demo
    from tools import bench_paper

    arguments = ["--model", str(demo.MODEL_DIR), "--tasks", "otprune_stickers", "--limit", "5"]
    arguments += ["--rows", "full,otprune", "--include-path", str(task), "--out", "paper"]
    assert bench_paper.main(arguments) == 0
    table = capfd.readouterr().out
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    assert "| 144 |" in lines["full, measured"]
    assert "| 14 |" in lines["OTPrune, as published, measured"]
    assert "3.228" in lines["full, published"]

    def again(*_):
        raise AssertionError("the results are there already")

    monkeypatch.setattr(bench_paper, "run", again)
    assert bench_paper.main(arguments) == 0
    assert capfd.readouterr().out == table


def test_lmms_eval_has_the_paper_s_benchmarks_and_metrics_by_these_names():
    from lmms_eval.tasks import TaskManager

    from tools import bench_paper

    known = TaskManager().task_index
    for benchmark in bench_paper.BENCHMARKS:
        folder = Path(known[benchmark.task]["yaml_path"]).parent
        written = "".join(file.read_text() for file in folder.iterdir() if "yaml" in file.name)
        assert f"metric: {benchmark.metric}" in written, benchmark
