"""The command line as a user calls it, on an untrained model of the embedded one's format."""

from dataclasses import dataclass

import pytest

from otprune.cli import main
from tests.untrained import checkpoint, embedded, photo, scene, tiny

__all__ = ["checkpoint", "embedded", "photo", "scene", "tiny"]

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


def widest(text, *paths):
    """Characters of the longest line, not counting lines that name one of some files."""
    return max(len(line) for line in text.splitlines() if not any(str(x) in line for x in paths))
