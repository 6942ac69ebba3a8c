"""Other processes that use the processors too, as on most machines that people work on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

NUMBER = 2
_SPIN = "print(flush=True)\nwhile True: pass"


@contextmanager
def busy_processes(number: int = NUMBER) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that only spin. The block starts when all of them do; its end kills them."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            started.append(subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE))
        for process in started:
            assert process.stdout is not None
            process.stdout.readline()
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
