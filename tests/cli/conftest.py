"""The command line as a user calls it, on an untrained model of the embedded one's format."""

from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from otprune import demo
from otprune.cli import main
from otprune_training.architecture import build
from otprune_training.processor import build_processor

QUESTION = "Is there a red circle?"
QUICK = ("--repeats", "1", "--max-new-tokens", "2")


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


@pytest.fixture
def run(capsys):
    """`run("ask", ...)`: exit status, stdout and stderr."""

    def call(*words):
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return Result(status, said.out, said.err)

    return call


@pytest.fixture
def refused(run):
    """`refused("ask", ...)`: the one line of an error."""

    def call(*words):
        result = run(*words)
        assert result.status == 2
        assert result.out == ""
        assert result.err.startswith("otprune: error: ")
        assert result.err.count("\n") == 1
        return result.err

    return call


@pytest.fixture(scope="session")
def tiny():
    return build(seed=0).eval(), build_processor()


@pytest.fixture
def embedded(tiny, monkeypatch):
    """Stands in for the embedded model, so that no test waits for its weights or its answers."""
    monkeypatch.setattr(demo, "load", lambda: tiny)


@pytest.fixture(scope="session")
def checkpoint(tiny, tmp_path_factory):
    """The same as a local folder, the way a user has one."""
    folder = tmp_path_factory.mktemp("model")
    for part in tiny:
        part.save_pretrained(folder)
    return folder


def scene(width=120, height=80, seed=0):
    """An image without two equal patches."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    scene().save(path)
    return path


def widest(text, *paths):
    """Characters of the longest line, not counting lines that name one of some files."""
    return max(len(line) for line in text.splitlines() if not any(str(x) in line for x in paths))
