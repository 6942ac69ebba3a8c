"""Mutation tests: change the library in one place at a time, and see whether a test notices.

    python -m tools.mutate src/otprune/keep.py --tests tests/test_keep.py [--sample 40] [--seed 0]

A change that no test notices is printed: it makes no difference, or a test is missing. Constants of
a module (sizes of blocks, tolerances) and the words of errors are left alone.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).parents[1]
PAIRS = [(ast.FloorDiv, ast.Mult), (ast.Pow, ast.Mult), (ast.Div, ast.Mult), (ast.Add, ast.Sub)]
PAIRS += [(ast.USub, ast.UAdd), (ast.And, ast.Or), (ast.BitAnd, ast.BitOr), (ast.Lt, ast.LtE)]
PAIRS += [(ast.Gt, ast.GtE), (ast.Eq, ast.NotEq), (ast.Is, ast.IsNot), (ast.In, ast.NotIn)]
PAIRS += [("min", "max"), ("amin", "amax"), ("minimum", "maximum"), ("argmin", "argmax")]
SWAPPED = {a: b for pair in PAIRS for a, b in (pair, pair[::-1])}
# The tests' own settings, but no search for a smaller example when one has failed.
FIXED = {"max_examples": 25, "deadline": None, "derandomize": True, "database": None}
settings.register_profile("mutate", phases=[Phase.explicit, Phase.generate], **FIXED)


def mutants(node: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """Changes at a node and below it: a node, one of its fields, and what to put there."""
    match node:
        case ast.Raise() | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return
        case ast.UnaryOp(op=ast.Not()):
            yield node, "operand", ast.UnaryOp(ast.Not(), node.operand)
        case ast.AST(op=op) if type(op) in SWAPPED:
            yield node, "op", SWAPPED[type(op)]()
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
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            match node, field, child:
                case _, "annotation" | "returns" | "decorator_list", _:
                    continue
                case ast.Module(), _, ast.Assign() | ast.AnnAssign():
                    continue
                case _, "body" | "orelse", ast.AugAssign() | ast.Break() | ast.Expr(ast.Call()):
                    yield node, field, [*value[:i], ast.Pass(), *value[i + 1 :]]
                case _, _, ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                    yield node, field, [*value[:i], ast.Pass(), *value[i + 1 :]]
            if isinstance(child, ast.AST):
                yield from mutants(child)


def mutate(source: str, i: int) -> tuple[str, str]:
    """The source with its i-th change, and the line before and after."""
    tree = ast.parse(source)
    before = ast.unparse(tree).splitlines()
    node, field, value = list(mutants(tree))[i]
    line = getattr(node, "lineno", 1)
    setattr(node, field, value)
    after = ast.unparse(ast.fix_missing_locations(tree)).splitlines()
    old, new = next((a, b) for a, b in zip(before, after, strict=False) if a != b)
    return "\n".join(after), f"{line}: {old.strip()}  ->  {new.strip()}"


def run(library: Path, tests: list[str]) -> None:
    """The tests with this library, in a fork."""
    sys.path.insert(0, str(library))
    sys.dont_write_bytecode = True  # it would be taken for that of the next mutant
    for name in [name for name in sys.modules if name.split(".")[0] in ("otprune", "tests")]:
        del sys.modules[name]
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
    os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "--hypothesis-profile=mutate", *tests]))


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
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        pytest.main(["--collect-only", *args.tests])  # what the tests import, once for all forks
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "src"
        shutil.copytree(ROOT / "src", library, ignore=shutil.ignore_patterns("__pycache__"))
        start = time.perf_counter()
        if not passes(library, args.tests, 3600):
            sys.exit("the tests fail without any change")
        limit = 3 * (time.perf_counter() - start) + 10
        for file in args.files:
            source, there = file.read_text(), library / file.resolve().relative_to(ROOT / "src")
            n, survived = len(list(mutants(ast.parse(source)))), 0
            chosen = sorted(random.Random(args.seed).sample(range(n), min(n, args.sample)))
            for mutant, change in (mutate(source, i) for i in chosen):
                there.write_text(mutant)
                if passes(library, args.tests, limit):
                    survived += 1
                    print(f"{file}:{change}", flush=True)
            there.write_text(source)
            print(f"{file}: {len(chosen)} of {n} mutants, {survived} survived", flush=True)


if __name__ == "__main__":
    main()
