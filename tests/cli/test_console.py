"""What is printed is whole at every width, and nothing of it is taken for markup."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

from otprune.cli import console
from otprune.cli.console import Figures, Words, show

from .conftest import QUESTION, QUICK, scene

WIDTHS = (10, 20, 30, 40, 45, 50, 60, 79, 80, 100, 200)


def printed(part, width):
    out = Console(file=io.StringIO(), width=width, markup=False, emoji=False)
    out.print(part, crop=False)
    return out.file.getvalue()


def words(text):
    return re.findall(r"[^\s\u2500:]+", text)


@pytest.mark.parametrize("width", range(1, 90))
def test_every_figure_is_whole_at_every_width(width):
    rows = [
        ("visual tokens", "144", "14", "9.7%"),
        ("answer", "a long answer of many words", Text("another"), ""),
        ("time", "1234.5 ms", "[bold]1[/bold]", ":smile:"),
    ]
    out = printed(Figures(("", "all tokens", "otprune", "left"), rows, wraps=(1,)), width)
    for row in rows:
        for cell in row:
            assert set(words(str(cell))) <= set(words(out)), out
    if max(map(len, out.splitlines())) > width:  # only a single word may be wider
        assert all(len(line) <= width or len(line.split()) == 1 for line in out.splitlines()), out


def test_headings_or_none_and_the_least_widths():
    rows = [("a", "1"), ("b", "22")]
    assert printed(Figures(("", ""), rows, least=(5,)), 40).split("\n")[0].startswith("a      1")
    assert printed(Figures(("", ""), rows, least=(5,)), 4).split() == ["a", "1", "b", "22"]
    assert printed(Figures(("", ""), [("label", "1234")]), 6) == "label:\n    1234\n"


def test_a_word_is_never_broken_and_what_goes_on_is_indented():
    text = Text("one /a/path/that/is/long two three")
    assert printed(Words(text, 2), 12) == "one\n  /a/path/that/is/long\n  two three\n"
    assert printed(Words(Text("a\n\nb")), 12) == "a\n\nb\n"


def test_markup_and_emoji_codes_are_text(capsys):
    show(Words(Text("[red]a[/red] :smile: [/x]")), Figures(("", ""), [("[b]", "[exact] :cat:")]))
    out = capsys.readouterr().out
    assert "[red]a[/red] :smile: [/x]" in out
    assert "[exact] :cat:" in out


def test_every_console_of_the_command_line_is_this_one():
    folder = Path(console.__file__).parent
    for file in folder.glob("*.py"):
        if file.name != "console.py":
            assert "Console(" not in file.read_text(), file.name
    progress = (folder / "progress.py").read_text()
    assert progress.count("TextColumn(") == progress.count("markup=False")


@pytest.mark.usefixtures("embedded")
@pytest.mark.parametrize("command", ["ask", "select"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_commands_show_the_same_figures_at_every_width(
    run, photo, tmp_path, monkeypatch, command, width
):
    monkeypatch.setenv("COLUMNS", str(width))
    asked = (QUESTION, *QUICK) if command == "ask" else ("--repeats", "1")
    strange = tmp_path / "a [red]b :cat: [x].png"
    scene().save(strange)
    monkeypatch.setitem(sys.modules, "ot", None)
    out = run(command, strange, *asked, "--keep", "16").out
    said = set(words(out))
    assert {"144", "16", "11.1%"} <= said
    assert "'otprune[exact]'" in said
    assert {"[red]b", "cat", "[x].png"} <= said
    if command == "ask":
        assert {"151", "23"} <= said


def test_methods_at_every_width(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    whole = set(words(run("methods").out))
    for width in WIDTHS:
        monkeypatch.setenv("COLUMNS", str(width))
        assert whole <= set(words(run("methods").out)), width


@pytest.mark.parametrize(
    ("command", "given", "policy"),
    [
        (["methods"], {}, "passive 0"),
        (["methods"], {"OMP_WAIT_POLICY": "active"}, "active None"),
        (["methods"], {"GOMP_SPINCOUNT": "9"}, "None 9"),
        (["bench", "--help"], {}, "None None"),
    ],
)
def test_waiting_threads_sleep(command, given, policy):
    """In a process of its own: the setting is read when torch is loaded."""
    code = (
        "import os, sys; from otprune.cli import main; assert 'torch' not in sys.modules; "
        f"main({command!r}); "
        "print(*map(os.environ.get, ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')))"
    )
    named = {k: x for k, x in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=named | given, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == policy, done.stderr
