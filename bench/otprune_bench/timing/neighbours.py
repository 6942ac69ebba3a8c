"""Other processes that want the processors too, as on most machines that people use."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NUMBER = 2
_SPIN = "print(flush=True)\nwhile True: pass"


@contextmanager
def neighbours(number: int = NUMBER) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that do nothing but spin, from when all of them do so to the end of the block."""
    made: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            made.append(subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE))
        for one in made:
            assert one.stdout is not None
            one.stdout.readline()
        yield made
    finally:
        for one in made:
            one.kill()
            one.wait()
            if one.stdout is not None:
                one.stdout.close()
