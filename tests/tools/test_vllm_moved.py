"""What the script finds in made-up releases: names, re-exports, parents, parameters, bodies."""

import subprocess
import sys
import tarfile
import zipfile

import pytest

from otprune.engines.vllm.private import USED
from tools import vllm_moved
from tools.vllm_moved import ENTRIES, changed_inside, find, moved, opened, parameters

FILES = {
    "vllm/__init__.py": "",
    "vllm/config/__init__.py": """
from typing import TYPE_CHECKING
from .vllm import VllmConfig
from vllm.config.vllm import *
if TYPE_CHECKING:
    from vllm.config.vllm import OnlyForTypes
try:
    from fast import Speed
except ImportError:
    Speed = None
""",
    "vllm/config/vllm.py": """
import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple
from .. import base

@dataclass
class Parent:
    first: int
    word: str = field(init=False)

@dataclass(kw_only=True)
class VllmConfig(Parent):
    second: int = 2
    limit: ClassVar[int] = 3

class Child(base.Far[int]):
    named: str = "a"

class Pair(NamedTuple):
    left: int
    right: int

Alias = Pair
class OnlyForTypes: ...
class Loop(Loop): ...
""",
    "vllm/base.py": '''
class Far:
    def __init__(self, size, *others, deep=False, **rest): ...

    @classmethod
    def made(cls, size): ...

    def run(self, tokens: "list[int]"):
        """Said so."""
        return tokens
''',
}


def release(folder, **changed):
    """A made-up release in a folder; `changed` maps a module's last name to (before, after)."""
    for path, text in FILES.items():
        for name, (before, after) in changed.items():
            if path.endswith(f"/{name}.py"):
                assert before in text
                text = text.replace(before, after)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


USES = [
    ("vllm.config", "VllmConfig", ("first",)),
    ("vllm.config", "Child.run", ("self", "tokens")),
    ("vllm.config", "Child.made", ("size",)),
    ("vllm.config", "Alias", ("left", "right")),
    ("vllm.base", "Far", None),
]


@pytest.mark.parametrize(
    ("path", "has"),
    [
        ("VllmConfig", ("first", "second")),  # by keyword alone come last
        ("Child", ("size", "others", "deep", "rest")),
        ("Alias", ("left", "right")),
        ("Child.named", None),
        ("Speed", None),
    ],
)
def test_parameters(tmp_path, path, has):
    sources = opened(str(release(tmp_path)), tmp_path)
    found = find(sources, "vllm.config", path)
    assert found is not None
    assert parameters(sources, found) == has


@pytest.mark.parametrize("path", ["OnlyForTypes.x", "Nothing", "Child.nothing", "Loop.nothing"])
def test_what_is_not_there_is_not_found(tmp_path, path):
    assert find(opened(str(release(tmp_path)), tmp_path), "vllm.config", path) is None
    assert find(opened(str(tmp_path), tmp_path), "vllm.elsewhere", path) is None


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({}, None),
        ({"base": ("def run", "def walk")}, "vllm.config:Child.run is gone"),
        (
            {"base": ("tokens:", "ids:")},
            "vllm.config:Child.run takes ('self', 'ids'), expected ('self', 'tokens')",
        ),
        (
            {"vllm": ("left: int", "other: int\n    left: int")},
            "vllm.config:Alias takes ('other', 'left', 'right'), expected ('left', 'right')",
        ),
        ({"base": ("class Far", "class Near")}, "vllm.base:Far is gone"),
    ],
)
def test_moved(tmp_path, changed, line):
    lines = moved(opened(str(release(tmp_path, **changed)), tmp_path), USES)
    assert (line in lines) if line else (lines == [])


def test_another_body_is_named_but_not_another_docstring(tmp_path):
    before = opened(str(release(tmp_path / "before")), tmp_path)
    said = release(tmp_path / "said", base=("Said so.", "Said otherwise."))
    assert changed_inside(opened(str(said), tmp_path), before, USES) == []
    done = release(tmp_path / "done", base=("return tokens", "return None"))
    assert changed_inside(opened(str(done), tmp_path), before, USES) == ["vllm.config:Child.run"]


@pytest.mark.parametrize("kind", ["wheel", "sdist", "folder"])
def test_what_it_reads(tmp_path, kind, capsys, monkeypatch):
    monkeypatch.setattr(vllm_moved, "ENTRIES", USES)
    folder = release(tmp_path / "made-1.0")
    if kind == "wheel":
        what = tmp_path / "made-1.0-py3-none-any.whl"
        with zipfile.ZipFile(what, "w") as wheel:
            for path in FILES:
                wheel.write(folder / path, path)
    elif kind == "sdist":
        what = tmp_path / "made-1.0.tar.gz"
        with tarfile.open(what, "w:gz") as packed:
            packed.add(folder, "made-1.0")
    else:
        what = folder
    assert vllm_moved.main([str(what)]) == 0
    assert "5 of 5 are as otprune uses them" in capsys.readouterr().out


def test_the_status_and_a_line_for_each(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "tools.vllm_moved", release(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    first, *lines = run.stdout.splitlines()
    assert f"{len(ENTRIES) - len(lines)} of {len(ENTRIES)}" in first
    assert len(lines) >= len(USED) - 1
    assert all(line.startswith("  moved: vllm.") for line in lines)
