"""How otprune_bench is laid out: no circles, and every bench has one shape."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import otprune
import otprune_bench
from otprune_bench.registry import BENCHES

ROOT = Path(otprune_bench.__file__).parent
# Modules of a bench, lowest first; those not named here are between the plan and the run.
HEIGHT = {"plan": 0, "run": 2, "command": 3, "__main__": 3}


def module_of(path, root):
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path, ROOT): path for path in ROOT.rglob("*.py")}


def imported(path):
    """Names of all imports: at the top, in functions and below TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# With the packages that a module is in, since Python imports those first.
GRAPH = {
    name: {
        package
        for found in [*imported(path), name]
        for package in [found, found.rpartition(".")[0]]
        if package in MODULES and package != name
    }
    for name, path in MODULES.items()
}


def test_there_are_no_circles():
    assert len(GRAPH) > 50
    assert "otprune_bench.speed.plan" in GRAPH["otprune_bench.speed.report"]
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_the_library_imports_neither_benches_nor_training():
    root = Path(otprune.__file__).parent
    for path in root.rglob("*.py"):
        found = {name.partition(".")[0] for name in imported(path)}
        assert not found & {"otprune_bench", "otprune_training"}, path


@pytest.mark.parametrize("bench", [bench.name for bench in BENCHES])
def test_a_bench_is_plan_cases_report_run_and_command(bench):
    folder = f"otprune_bench.{bench}"
    for part in ("plan", "cases", "report", "run", "command"):
        assert f"{folder}.{part}" in MODULES
    others = {f"otprune_bench.{other.name}" for other in BENCHES} - {folder}
    for name, needed in GRAPH.items():
        if not name.startswith(f"{folder}."):
            continue
        part = name.rpartition(".")[2]
        own = {n.rpartition(".")[2] for n in needed if n.startswith(f"{folder}.")}
        assert all(HEIGHT.get(n, 1) <= HEIGHT.get(part, 1) for n in own), (name, own)
        if part in ("cases", "report"):
            assert not own & {"cases", "report"}, (name, own)
        assert not {n for n in needed for other in others if n.startswith(f"{other}.")}, name
