"""A new method is one file and one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import otprune
from otprune import METHODS, selectors

ROOT = Path(otprune.__file__).parent

LAST = '''
"""The last tokens."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from otprune.selectors.base import Selector


@dataclass(frozen=True)
class LastPrune(Selector):
    """Keeps the last tokens."""

    name: ClassVar[str] = "last"
    summary: ClassVar[str] = "baseline: the last positions"
    positional: ClassVar[bool] = True

    def pick(self, tokens, k, cues):
        m = tokens.shape[1]
        return torch.arange(m - k, m, device=tokens.device).expand(len(tokens), k)
'''

CODE = """
import otprune
from otprune.cli import main
from otprune.engines.vllm.settings import engine_settings
assert otprune.METHODS["last"] is otprune.LastPrune is otprune.selectors.LastPrune
assert otprune.LastPrune(2).select(otprune.selectors.base.torch.eye(5)).tolist() == [3, 4]
assert engine_settings({"keep": 0.5, "method": "last"}).method == "last"
main(["methods"])
"""


def test_a_file_and_a_line_are_enough(tmp_path):
    package = tmp_path / "otprune"
    shutil.copytree(ROOT, package, ignore=shutil.ignore_patterns("__pycache__", "model", "samples"))
    (package / "selectors" / "last.py").write_text(LAST)
    with (package / "selectors" / "registry.py").open("r+") as file:
        line = "from otprune.selectors.random import RandomPrune as RandomPrune\n"
        text = file.read()
        assert line in text
        new = "from otprune.selectors.last import LastPrune as LastPrune\n"
        file.seek(0)
        file.write(text.replace(line, line + new))
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "baseline: the last positions" in done.stdout


def test_every_method_is_reached_by_its_class():
    for name, method in METHODS.items():
        assert method.name == name
        assert getattr(otprune, method.__name__) is method
        assert getattr(selectors, method.__name__) is method
        assert method.__module__ == f"otprune.selectors.{method.__module__.rpartition('.')[2]}"
