"""A method of a user's own file on the command line, by module and class."""

import json
import subprocess
import sys

import pytest

from .conftest import QUESTION, QUICK

METHOD = """
from dataclasses import dataclass
import torch
import otprune

@dataclass(frozen=True)
class Near(otprune.GridPrune):
    needs = frozenset({"question"})
    far: bool = False

    def pick(self, tokens, k, cues):
        near = (tokens @ cues.question.mT).amax(-1)
        return near.topk(k, largest=not self.far).indices

class First(otprune.Selector):
    def pick(self, tokens, k, cues):
        return torch.arange(k).expand(len(tokens), k)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current directory has the file, and is not on the path."""
    (tmp_path / "near_me.py").write_text(METHOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    yield
    sys.modules.pop("near_me", None)


@pytest.mark.usefixtures("embedded", "here")
def test_ask_with_what_the_method_needs(run, photo):
    words = ("ask", photo, QUESTION, *QUICK, "--method", "near_me:Near", "--keep", "12")
    result = run(*words)
    assert (result.status, result.err) == (0, "")
    assert "Near (keep=12, far=False)" in " ".join(result.out.split())
    near = json.loads(run(*words, "--json").out)
    far = json.loads(run(*words, "--json", "--set", "far=True").out)
    assert (far["method"], far["settings"]) == ("near_me:Near", {"far": True})
    kept = [set(report["images"][0]["indices"]) for report in (near, far)]
    assert not kept[0] & kept[1]


@pytest.mark.usefixtures("embedded", "here")
def test_select_has_the_tokens_alone(run, refused, photo):
    (image,) = json.loads(run("select", photo, "--method", "near_me:First", "--json").out)["images"]
    assert image["indices"] == list(range(14))
    assert "Near needs question" in refused("select", photo, "--method", "near_me:Near")


@pytest.mark.usefixtures("here")
def test_the_current_directory_is_on_the_path_for_such_a_name_alone(photo):
    code = (
        "import sys; from otprune.cli.parsing import pruning; place = sys.path.pop(0);"
        "pruning('grid', 3); print(place in sys.path);"
        "pruning('near_me:First', 3); print(sys.path[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", str(photo.parent)]
