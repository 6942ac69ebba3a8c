"""What is there, told without loading a model."""

import os
import re
import subprocess
import sys

import pytest
import typer

from otprune import METHODS, __version__, demo
from otprune.cli.app import app
from otprune.selectors.named import every_setting


def test_version(run):
    assert run("--version").out == f"otprune {__version__}\n"


def test_no_command_shows_help(run):
    assert run().out == run("--help").out
    assert "ask" in run().out


@pytest.mark.parametrize("width", ["30", "79", "80"])
def test_no_name_of_an_option_is_cut_in_a_narrow_terminal(width):
    words = [sys.executable, "-m", "otprune", "ask", "--help"]
    environment = {**os.environ, "COLUMNS": width}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    for name in ("--continue-on-error", "--trust-remote-code", "--max-new-tokens", "QUESTION"):
        assert name in done.stdout


def test_no_bench_shows_help(run):
    result = run("bench")
    assert (result.status, result.err) == (0, "")
    assert result.out == run("bench", "--help").out
    assert "serving" in result.out


def texts(command):
    """Every text that the help of a command and of those below it shows."""
    for text in (command.help, command.epilog, *(getattr(p, "help", "") for p in command.params)):
        yield text or ""
    for below in getattr(command, "commands", {}).values():
        yield from texts(below)


def test_no_help_text_holds_what_would_be_taken_for_markup():
    said = list(texts(typer.main.get_command(app)))
    assert len(said) > 50
    assert not [text for text in said if re.search(r"\[[a-z/#@]|:\w+:", text)]


@pytest.mark.parametrize("command", ["ask", "select", "watch", "plan", "methods", "fetch"])
def test_help_of_every_command(run, command):
    result = run(command, "--help")
    assert (result.status, result.err) == (0, "")
    assert f"otprune {command}" in result.out
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["ask", "select"])
def test_every_setting_of_the_methods_has_an_option(command):
    options = {p.name for p in typer.main.get_command(app).commands[command].params}
    common = {"gamma", "metric", "seed", "rank"}
    assert common <= set(every_setting()) & options
    assert "settings" in options  # --set, for all others


def test_methods_one_line_each(run):
    lines = run("methods").out.splitlines()
    assert max(map(len, lines)) <= 80
    for name, method in METHODS.items():
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        marks = line.split()[-1]
        assert method.summary in line
        assert set(marks) <= set("wcn-")
        assert ("w" in marks) == ("weights" in method.uses)
        assert ("c" in marks) == method.certifies
        assert ("n" in marks) == bool(method.needs)


def test_what_select_cannot_tell_a_method_is_refused_at_once(run):
    said = run("select", "none.png", "--method", "visionzip")
    assert said.status == 2
    assert "VisionZip needs keys and saliency, which cannot be provided by select" in said.err


def test_demo_help_needs_no_photo(run):
    result = run("ask", "--demo-help")
    assert (result.status, result.out) == (0, demo.HELP)


def test_light_commands_leave_transformers_alone():
    code = "import sys; from otprune.cli import main; main(['methods']); main(['ask', '--help'])"
    code += "; main(['ask', 'none.png', 'star']); print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
    assert "no such image: none.png" in done.stderr


def test_as_a_program(photo):
    words = [sys.executable, "-m", "otprune", "ask", str(photo), "Is there a zebra?"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_without_the_benches_everything_else_works_and_bench_says_what_to_install():
    """Not installed, or registered and moved since."""
    code = (
        "import sys; sys.modules['otprune_bench'] = None\n"
        "from otprune.cli import main\n"
        "print(main(['methods']), main(['bench', 'speed', '--quick']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 2", done.stderr
    assert "pip install ./training ./bench" in done.stderr
