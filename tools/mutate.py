"""Mutation tests: change the library in one place at a time, and see whether a test notices.

    python -m tools.mutate src/otprune/keep.py --tests tests/test_keep.py [--sample 40] [--seed 0]

What no test notices is printed: either the change makes no difference, or a test is missing.
Left alone are constants of a module (sizes of blocks, tolerances) and the words of errors.
"""

from __future__ import annotations

import argparse
import ast
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch  # noqa: F401 (loaded once, for all forks)

ROOT = Path(__file__).parents[1]
OPERATORS = [(ast.FloorDiv, ast.Mult), (ast.Pow, ast.Mult), (ast.Div, ast.Mult)]
OPERATORS += [(ast.Lt, ast.LtE), (ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot)]
OPERATORS += [(ast.In, ast.NotIn), (ast.Add, ast.Sub), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr)]
NAMES = [("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax")]
SWAPPED = {a: b for pair in OPERATORS + NAMES for a, b in (pair, pair[::-1])}
Mutant = tuple[ast.AST, str, object]


def mutants(node: ast.AST) -> Iterator[Mutant]:
    """Changes at a node and below it: a node, one of its fields, and what to put there."""
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            yield node, "op", SWAPPED[type(op)]()
        case ast.UnaryOp(op=ast.USub()):
            yield node, "op", ast.UAdd()
        case ast.UnaryOp(op=ast.Not()):
            yield node, "operand", ast.UnaryOp(ast.Not(), node.operand)
        case ast.Compare(ops=[first, *rest]) if type(first) in SWAPPED:
            yield node, "ops", [SWAPPED[type(first)](), *rest]
        case ast.Name(id=name) if name in SWAPPED:
            yield node, "id", SWAPPED[name]
        case ast.Attribute(attr=name) if name in SWAPPED:
            yield node, "attr", SWAPPED[name]
        case ast.Constant(value=bool(value)):
            yield node, "value", not value
        case ast.Constant(value=int(value) | float(value)):
            yield node, "value", value + 1
        case ast.If() | ast.IfExp():
            yield from ((node, "test", ast.Constant(truth)) for truth in (True, False))
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if field in ("body", "orelse") and _removable(child):
                yield node, field, [*value[:i], ast.Pass(), *value[i + 1 :]]
            if isinstance(child, ast.AST) and not (
                isinstance(node, ast.Module) and isinstance(child, (ast.Assign, ast.AnnAssign))
            ):
                yield from mutants(child)


def _removable(node: object) -> bool:
    """Statements without which the module still runs, at first sight."""
    if isinstance(node, ast.Assign):
        return not isinstance(node.targets[0], (ast.Name, ast.Tuple))
    return isinstance(node, (ast.AugAssign, ast.Break, ast.Continue)) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    )


def mutate(source: str, i: int) -> tuple[str, str]:
    """The source with its i-th change, and that change in words."""
    tree = ast.parse(source)
    node, field, value = list(mutants(tree))[i]
    place = node if hasattr(node, "lineno") else tree.body[0]
    before = ast.unparse(node).split("\n")[0]
    was = getattr(node, field)
    setattr(node, field, value)
    after = ast.unparse(node).split("\n")[0]
    if before == after and isinstance(value, list):
        gone = next(a for a, b in zip(was, value, strict=True) if a is not b)
        before, after, place = ast.unparse(gone).split("\n")[0], "pass", gone
    return ast.unparse(ast.fix_missing_locations(tree)), f"{place.lineno}: {before} -> {after}"


class Plugin:
    """When a test of examples has failed, no smaller example is looked for."""

    def pytest_sessionstart(self) -> None:
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile("short", hypothesis.settings.default, phases=phases)
        hypothesis.settings.load_profile("short")


def run(library: Path, tests: list[str]) -> None:
    """The tests with this library, in a process of its own."""
    sys.path.insert(0, str(library))
    sys.dont_write_bytecode = True  # it would be taken for that of the next mutant
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os._exit(pytest.main(["-x", "-p", "no:cacheprovider", *tests], [Plugin()]))


def passes(library: Path, tests: list[str], limit: float) -> bool:
    """Whether the tests pass with this library in so many seconds."""
    child = multiprocessing.get_context("fork").Process(target=run, args=(library, tests))
    child.start()
    child.join(limit)
    child.kill()
    child.join()
    return child.exitcode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--tests", nargs="+", required=True)
    parser.add_argument("--sample", type=int, default=10**6, help="mutants of a file at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "src"
        shutil.copytree(ROOT / "src", library, ignore=shutil.ignore_patterns("__pycache__"))
        start = time.perf_counter()
        if not passes(library, args.tests, 3600):
            sys.exit("the tests fail without any change")
        limit = 3 * (time.perf_counter() - start) + 10
        for file in args.files:
            source, there = file.read_text(), library / file.resolve().relative_to(ROOT / "src")
            n = len(list(mutants(ast.parse(source))))
            chosen = sorted(random.Random(args.seed).sample(range(n), min(n, args.sample)))
            survived = 0
            for i in chosen:
                mutant, change = mutate(source, i)
                there.write_text(mutant)
                if passes(library, args.tests, limit):
                    survived += 1
                    print(f"{file}:{change}", flush=True)
            there.write_text(source)
            print(f"{file}: {len(chosen)} of {n} mutants, {survived} survived", flush=True)


if __name__ == "__main__":
    main()
