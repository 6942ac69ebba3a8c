"""torchvision has to be of torch's own build: what is told where it is not, or is not there."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

from otprune import installed
from otprune.installed import broken_torchvision, torchvision_line


@pytest.mark.parametrize(
    ("torch", "line"),
    [
        (
            "2.13.0+cpu",
            "pip install torch==2.13.0+cpu torchvision "
            "--index-url https://download.pytorch.org/whl/cpu",
        ),
        (
            "2.13.0+cu130",
            "pip install torch==2.13.0+cu130 torchvision "
            "--index-url https://download.pytorch.org/whl/cu130",
        ),
        ("2.14.1", "pip install torch==2.14.1 torchvision"),
    ],
)
def test_the_line_leaves_the_torch_that_is_here_alone(monkeypatch, torch, line):
    monkeypatch.setattr(installed, "version", lambda _: torch)
    assert torchvision_line() == line


def test_without_torch_both_are_installed(monkeypatch):
    def absent(name):
        raise installed.PackageNotFoundError(name)

    monkeypatch.setattr(installed, "version", absent)
    assert torchvision_line() == "pip install torch torchvision"


def raised(*errors):
    """The last of them, each caused by the one before it."""
    before = None
    for error in errors:
        error.__cause__ = before
        before = error
    return before


@pytest.mark.parametrize(
    "first",
    [
        RuntimeError("operator torchvision::nms does not exist"),
        OSError("/site-packages/torchvision/_C.so: undefined symbol: _ZN3c10"),
        RuntimeError(
            "Detected that PyTorch and torchvision were compiled with different CUDA versions"
        ),
    ],
)
def test_a_misfit_is_found_however_deep(first):
    wrapped = raised(first, ModuleNotFoundError("Could not import module 'AutoProcessor'"))
    for error in (first, wrapped):
        told = broken_torchvision(error)
        assert told.startswith("the torchvision that is installed does not fit torch (")
        assert "pip uninstall torchvision" in told


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'torchvision'", name="torchvision"),
        ImportError("AutoVideoProcessor requires the Torchvision library but it was not found"),
        ModuleNotFoundError("No module named 'transformers'", name="transformers"),
        ValueError("another"),
    ],
)
def test_what_is_not_a_misfit(error):
    assert broken_torchvision(error) is None
    error.__context__ = error  # a circle does not hang it
    assert broken_torchvision(error) is None


def test_what_the_docs_say_of_processors_is_so():
    transformers = pytest.importorskip("transformers")
    from transformers.models.auto.configuration_auto import model_type_to_module_name
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    page = (Path(__file__).parent.parent / "docs" / "install.md").read_text()
    for line, videos in (("| Pillow alone |", False), ("| torchvision too |", True)):
        (row,) = [row for row in page.splitlines() if row.startswith(line)]
        kinds = re.findall(r"`(\w+)`", row)
        assert len(kinds) > 5
        for kind in kinds:
            package = f"transformers.models.{model_type_to_module_name(kind)}"
            processor = getattr(import_module(package), PROCESSOR_MAPPING_NAMES[kind])
            takes = "video_processor" in inspect.signature(processor.__init__).parameters
            assert takes == videos, f"{kind}, transformers {transformers.__version__}"


def test_no_extra_pulls_torchvision():
    project = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    extras = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    lines = [line for line in extras.splitlines() if not line.startswith("#")]
    assert not [line for line in lines if "torchvision" in line]
