"""What every target of the Makefile would run is a script that a shell can read."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TARGETS = re.findall(r"^([a-z][\w-]*):.*##", (ROOT / "Makefile").read_text(), flags=re.M)


@pytest.mark.parametrize("target", TARGETS)
def test_its_lines_are_whole(target, tmp_path):
    """A comma inside $(call ...) once cut a line in two."""
    told = subprocess.run(
        ["make", "-n", target, f"VENV={tmp_path}/none", "MODEL=some/model"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    read = subprocess.run(["sh", "-n"], input=told.stdout, capture_output=True, text=True)
    assert read.returncode == 0, read.stderr


def test_there_are_targets():
    assert {"test", "demo", "docs", "test-page", "test-vllm"} <= set(TARGETS)
