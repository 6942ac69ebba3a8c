"""The command line, `otprune`: a thin layer over the library."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

# Packages that only the command line needs, all installed by the `demo` extra.
_NEEDED = ("typer", "rich", "PIL", "transformers", "safetensors", "tokenizers", "jinja2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error, 130 after Ctrl-C.

    Args:
        argv: the arguments after the program's name; None takes those of the process.
    """
    _let_threads_sleep(sys.argv[1:] if argv is None else argv)
    try:
        from otprune.cli.app import run

        return run(argv)
    except KeyboardInterrupt:
        return 130
    except (ImportError, RuntimeError) as cause:
        told = _what_to_install(cause)
        if told is None:
            raise
        print(f"otprune: error: {told}", file=sys.stderr)
        return 2


def _let_threads_sleep(argv: Sequence[str]) -> None:
    """Make waiting OpenMP threads of this process sleep, unless the environment settles that.

    Beside other processes, each of the many small parallel regions of a model otherwise waits for a
    thread that is not running. The price on a quiet machine is the time to wake one up, which shows
    in small models (docs/watch.md has figures of both). The setting is read when torch is loaded.
    Not for `bench`: its times are those of the library as people call it.
    """
    settled = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ)
    if next(iter(argv), None) != "bench" and not settled:
        os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="0")


def _what_to_install(cause: Exception) -> str | None:
    from otprune.installed import broken_torchvision

    package = (getattr(cause, "name", None) or "").partition(".")[0]
    if package in _NEEDED:
        return f"this command needs {package}, which is not installed: pip install 'otprune[demo]'"
    return broken_torchvision(cause)
