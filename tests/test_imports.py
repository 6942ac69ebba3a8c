"""Imports point downwards, and the core needs torch and numpy alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import otprune

ROOT = Path(otprune.__file__).parent

# Lowest first; a module may import from its own layer and from those before it.
LAYERS = [
    {"errors", "flops", "installed"},
    {"keep", "numerics"},
    {"checks"},
    {"greedy"},
    {"measures"},
    {"selectors"},
    {"streaming"},
    {"demo", "encoders", "reading"},
    {"engines"},
    {"asking", "planning"},
    {"evaluation"},
    {"cli", "page"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
CORE = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if HEIGHT.get(path.relative_to(ROOT).with_suffix("").parts[0], -1) >= 0
]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "otprune":
                yield from (f"otprune.{alias.name}" for alias in node.names)
            else:
                yield node.module


@pytest.mark.parametrize("path", CORE, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_downwards(path):
    here = HEIGHT[path.relative_to(ROOT).with_suffix("").parts[0]]
    for name in imported(path):
        package, *rest = name.split(".")
        if package == "otprune" and rest and rest[0] in HEIGHT:
            assert HEIGHT[rest[0]] <= here, f"{path.name} imports {name}"
        elif here <= HEIGHT["streaming"]:
            assert package in {*sys.stdlib_module_names, "torch", "numpy", "ot", "triton"}, name


def test_contributing_names_the_same_order():
    text = (ROOT.parents[1] / "CONTRIBUTING.md").read_text()
    table = text[text.index("| layer, lowest first") :].split("\n\n")[0].splitlines()[2:]
    assert [set(re.findall(r"`(\w+)`", row.split("|")[1])) for row in table] == LAYERS


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted((ROOT / "engines" / "common").glob("*.py")), ids=str)
def test_what_engines_share_knows_no_engine(path):
    for name in imported(path):
        assert name.partition(".")[0] not in ("transformers", "vllm", "lmms_eval"), name
        if name.startswith("otprune.engines"):
            assert name.startswith("otprune.engines.common"), name


def test_import_is_light():
    loaded = run("import otprune, sys; print(*sys.modules)").split()
    assert "otprune" in loaded
    heavy = {"torch", "numpy", "transformers", "vllm", "ot", "triton", "PIL", "typer", "rich", "av"}
    assert not heavy & set(loaded)


def test_selectors_need_torch_alone():
    loaded = run(
        "import otprune, sys, torch; otprune.OTPrune(3).select(torch.eye(9)); print(*sys.modules)"
    ).split()
    heavy = {"transformers", "vllm", "ot", "triton", "PIL", "scipy", "typer", "rich"}
    assert not heavy & set(loaded)


WITHOUT_TRANSFORMERS = "import sys; sys.modules['transformers'] = None\n"


def test_without_transformers_every_name_is_there_and_says_what_to_install():
    said = run(
        WITHOUT_TRANSFORMERS + "import otprune\n"
        "from otprune import *\n"
        "for name in otprune.__all__: assert hasattr(otprune, name), name\n"
        "assert prune.__name__ == 'prune' and 'otprune[transformers]' in prune.__doc__\n"
        "assert OTPrune(2).count(9) == 2\n"
        "for name in ('prune', 'prune_inputs'):\n"
        "    try: getattr(otprune, name)(None, OTPrune(2))\n"
        "    except MissingDependencyError as e: print(e)\n"
    )
    assert said.count("pip install 'otprune[transformers]'") == 2
    assert said.startswith("otprune.prune needs transformers, which cannot be imported")


def test_a_torchvision_that_does_not_fit_is_named(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    info = tmp_path / "torchvision-0.28.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.28.0\n")
    front = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    said = run(
        front + "import otprune\n"
        "try: otprune.prune(None, None)\n"
        "except otprune.MissingDependencyError as e: print(e)\n"
    )
    assert "the torchvision that is installed does not fit torch" in said
    assert "pip uninstall torchvision" in said
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            front + "from otprune.cli import main; sys.exit(main(['ask', 'x.jpg', 'Is it?']))",
        ],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_the_public_surface_is_whole():
    for name in set(otprune.__all__) - {"prune", "prune_inputs"}:  # theirs: tests/engines
        assert getattr(otprune, name) is not None
    assert set(otprune.__all__) <= set(dir(otprune))
    with pytest.raises(AttributeError, match="no_such_name"):
        otprune.no_such_name  # noqa: B018
