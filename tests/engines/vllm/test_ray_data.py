"""The example with Ray Data: killed and started again, nothing is lost, nothing is asked twice."""

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections import Counter
from pathlib import Path

import pytest

import otprune
from otprune.demo import SAMPLES_DIR

from .engines import ENVIRONMENT

EXAMPLE = Path(__file__).parents[3] / "examples" / "vllm_ray_data.py"
NAMES = [f"{name}_{i}.jpg" for name in ("coffee", "rocket") for i in range(4)]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_half_a_line_is_cut_off(example, tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"key": "a"}\n{"key": "b", "answ')
    with file.open("ab+") as out:
        assert example["whole_lines"](out) == [{"key": "a"}]
        out.write(b'{"key": "c"}\n')
        assert example["whole_lines"](out) == [{"key": "a"}, {"key": "c"}]


def test_another_question_another_keep_and_another_file_are_other_keys(example, tmp_path):
    (tmp_path / "a.jpg").write_text("one")
    asked = {"question": "What?", "model": "some", "keep": 0.1}
    changed = [{}, {"question": "Who?"}, {"model": "other"}, {"keep": 0.2}]
    keys = [example["key"](tmp_path / "a.jpg", Namespace(**asked | x)) for x in changed]
    (tmp_path / "a.jpg").write_text("another")
    keys.append(example["key"](tmp_path / "a.jpg", Namespace(**asked)))
    assert len(set(keys)) == len(keys)
    assert keys[-1] == example["key"](tmp_path / "a.jpg", Namespace(**asked))


@pytest.mark.vllm_ray
def test_killed_and_started_again(tmp_path):
    folder, file = tmp_path / "images", tmp_path / "answers.jsonl"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(SAMPLES_DIR / f"{name.split('_')[0]}.jpg", folder / name)
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("not looked at")

    def start(keep="0.25"):
        return subprocess.Popen(
            [sys.executable, EXAMPLE, folder, file, "--keep", keep, "--batch", "1"],
            env={**os.environ, **ENVIRONMENT, "RAY_USAGE_STATS_ENABLED": "0"},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    first = start()
    lines = (line for line in first.stdout if line.startswith('{"key": '))
    assert next(lines, None), "no engine answered"
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    before = file.read_bytes().splitlines()
    assert len(before) < len(NAMES) + 1, "it was over before it could be killed"

    said, _ = (second := start()).communicate(timeout=600)
    assert second.returncode == 1  # of the broken image
    assert f"{len(NAMES) + 1} images, " in said
    assert "0 were asked before" not in said
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [json.loads(x) for x in before if x.endswith(b"}")] == lines[: len(before)]
    assert Counter(line["image"] for line in lines) == Counter([*NAMES, "broken.png"])
    (broken,) = (line for line in lines if "error" in line)
    assert broken["image"] == "broken.png"
    assert "cannot identify image file" in broken["error"]
    for line in lines:
        if line is not broken:
            assert line["answer"] == ("yes" if line["image"].startswith("coffee") else "no")
            assert line["prompt_tokens"] == 6 + otprune.count(0.25, 144)

    assert start().wait(timeout=600) == 1  # nothing is left to ask; no engine starts
    assert [json.loads(line) for line in file.read_text().splitlines()] == lines
