"""What the processes of a server hold: memory, files, sockets. From /proc alone."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

MIB = 1024


def tree(root: int) -> dict[int, str]:
    """A process and all below it: their numbers, and what each is called."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if after_name[0] != "Z":
            parents[int(folder.name)] = int(after_name[1])
    found, new = {}, {root} & set(parents)
    while new:
        found.update({pid: _role(pid, root) for pid in new})
        new = {pid for pid, parent in parents.items() if parent in new}
    return found


def memory(pid: int) -> tuple[float, float] | None:
    """MiB of a process in memory (RSS), and with shared pages divided by their users (PSS).

    None if it has ended.
    """
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines[1:])
    rss, pss = (int(fields[name].split()[0]) / MIB for name in ("Rss", "Pss"))
    return rss, pss


def held(root: int, but: Path) -> set[str]:
    """What a process or one below it has open and must not leave behind.

    Files in /dev/shm and in the folder for temporary ones, and Unix sockets; none below `but`, and
    none of this environment's libraries, wherever that lies.
    """
    others = (f"{but}/", f"{sys.prefix}/")
    sockets = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) == 8 and words[7].startswith("/"):
            sockets[f"socket:[{words[6]}]"] = words[7]
    folders = ("/dev/shm/", f"{tempfile.gettempdir()}/")
    paths: set[str] = set()
    for pid in tree(root):
        with suppress(OSError):  # it has ended
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            paths |= {line.split(maxsplit=5)[5] for line in maps if any(f in line for f in folders)}
            for opened in Path(f"/proc/{pid}/fd").iterdir():
                with suppress(OSError):  # it was closed
                    paths.add(str(opened.readlink()))
    paths = {path for path in paths if path.startswith(folders)} | {
        sockets[path] for path in paths if path in sockets
    }
    return {x for x in paths if not x.endswith(" (deleted)") and not x.startswith(others)}


class Watch:
    """Samples the memory of a server's processes, every few seconds, until `stop`."""

    def __init__(self, root: int, seconds: float, done: Callable[[], int]) -> None:
        self.samples: list[dict[str, Any]] = []
        self._root, self._seconds, self._done = root, seconds, done
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more samples."""
        self._end.set()
        self._thread.join()

    def sample(self) -> dict[str, Any]:
        """How many requests are done, and MiB of each process, `{role: [RSS, PSS]}`."""
        found: dict[str, Any] = {"time": time.time(), "done": self._done(), "memory": {}}
        for pid, role in tree(self._root).items():
            held = memory(pid)
            if held is not None:
                found["memory"][role] = [round(x, 1) for x in held]
        return found

    def _run(self) -> None:
        while not self._end.wait(self._seconds):
            self.samples.append(self.sample())


def _role(pid: int, root: int) -> str:
    if pid == root:
        return "API server"
    try:
        line = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return "ended"
    if "resource_tracker" in line:
        return "resource tracker"
    return line.split("::")[-1] if line.startswith("VLLM") else f"{line[-40:]} {pid}"
