"""What is installed, and what to install: torchvision has to be of the same build as torch."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

# What torch and torchvision say of a build that does not fit.
_MISFIT = ("torchvision::", "torchvision/_C", "PyTorch and torchvision were compiled")
INDEX = "https://download.pytorch.org/whl/"  # PyTorch's own, by build: cpu, cu130, ...


def torchvision_line() -> str:
    """The pip line for a torchvision that fits the torch that is here, and leaves that alone.

    Every torchvision is compiled for one version and one build of torch. On Linux PyPI has the
    CUDA builds: beside a torch for the CPU they cannot be imported, and then most of transformers
    cannot either. A torch from PyTorch's own index says in its version which build it is.
    """
    try:
        torch = version("torch")
    except PackageNotFoundError:
        return "pip install torch torchvision"
    build = torch.partition("+")[2]
    index = f" --index-url {INDEX}{build}" if build else ""
    return f"pip install torch=={torch} torchvision{index}"


def broken_torchvision(error: BaseException) -> str | None:
    """What to do if a torchvision that does not fit is behind an error; None if it is not.

    Args:
        error: what an import raised; its causes are looked at too, as transformers wraps them.
    """
    for cause in _causes(error):
        said = str(cause)
        absent = isinstance(cause, ModuleNotFoundError) and cause.name == "torchvision"
        if not absent and any(sign in said for sign in _MISFIT):
            return (
                f"the torchvision that is installed does not fit torch ({' '.join(said.split())}), "
                "and with it transformers cannot be imported: pip uninstall torchvision, or for "
                f"one that fits: pip uninstall torchvision, then {torchvision_line()}"
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
