"""What a figure depends on besides the arguments: machine, versions, threads, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

CODE = (":(top)src", ":(top)bench", ":(top)training")  # folders of the repository
PACKAGES = ("torch", "transformers", "numpy", "POT", "lmms-eval", "vllm")


def environment() -> dict[str, Any]:
    """Machine, versions and threads of this process; the commit where that is a checkout's."""
    import torch

    import otprune

    found: dict[str, Any] = {
        "otprune": otprune.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "OpenMP": openmp(),
        "memory": _first("/proc/meminfo", "MemTotal"),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def openmp() -> str | None:
    """Environment variables that set number and waiting of threads; None if none is set."""
    names = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    return " ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ) or None


def _commit() -> str | None:
    """The commit, with a + where the code of library, benches or training has changed since."""
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        # Where otprune is installed inside another project's repository, that commit means nothing.
        known = subprocess.run([*git, "ls-files", "--error-unmatch", __file__], capture_output=True)
        if known.returncode:
            return None
        said = [
            subprocess.run([*git, *words], capture_output=True, text=True).stdout.strip()
            for words in (
                ("rev-parse", "--short=12", "HEAD"),
                ("status", "--porcelain", "--untracked-files=no", "--", *CODE),
            )
        ]
    except OSError:  # no git
        return None
    return said[0] + "+" * bool(said[1]) or None


def _first(file: str, name: str) -> str | None:
    """The value of the first line `name : value` of a file of /proc."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    values = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(values, None)
