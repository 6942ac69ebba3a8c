"""The example that asks about a folder of images: JSON lines, also of what is no image."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import otprune
from otprune.demo import SAMPLES_DIR

from .engines import ENVIRONMENT

pytestmark = pytest.mark.vllm
EXAMPLE = Path(__file__).parents[3] / "examples" / "vllm_folder.py"


def test_a_folder_with_a_broken_image(tmp_path):
    for name in ("coffee", "rocket"):
        shutil.copy(SAMPLES_DIR / f"{name}.jpg", tmp_path)
    (tmp_path / "broken.png").write_text("no image")
    (tmp_path / "notes.txt").write_text("not looked at")
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path, "--keep", "0.25"],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    broken, *answered = map(json.loads, done.stdout.splitlines())
    assert broken["image"] == "broken.png"
    assert "cannot identify image file" in broken["error"]
    assert [(x["image"], x["answer"]) for x in answered] == [
        ("coffee.jpg", "yes"),
        ("rocket.jpg", "no"),
    ]
    assert {x["prompt_tokens"] for x in answered} == {6 + otprune.count(0.25, 144)}
