"""The command line, `otprune`: it composes the library and holds no mathematics."""

from __future__ import annotations

import sys
from collections.abc import Sequence

# What only the command line needs; all of it comes with the `demo` extra.
_NEEDED = ("typer", "rich", "PIL", "transformers", "safetensors", "tokenizers", "jinja2")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for an error, 130 after Ctrl-C.

    Args:
        argv: the words after the program's name; None takes the process's own.
    """
    try:
        from otprune.cli.app import run

        return run(argv)
    except KeyboardInterrupt:
        return 130
    except ImportError as cause:
        package = (cause.name or "").partition(".")[0]
        if package not in _NEEDED:
            raise
        print(
            f"otprune: error: this command needs {package}, which is not installed: "
            "pip install 'otprune[demo]'",
            file=sys.stderr,
        )
        return 2
