"""Two machines in one: network namespaces joined by a cable, in each of them Ray, or a server.

vLLM's platform for CPUs does not support Ray. The one here does, for the tests: it is that platform
and says that its device is Ray's "GPU", of which each machine is told to have one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .engines import ENVIRONMENT

ROOT = Path(__file__).parents[3]
PLATFORM = """
def platform():
    return "ray_on_cpus.RayOnCPUs"


def __getattr__(name):
    if name != "RayOnCPUs":
        raise AttributeError(name)
    from vllm.platforms.cpu import CpuPlatform

    class RayOnCPUs(CpuPlatform):
        ray_device_key = "GPU"

        @classmethod
        def device_control_id_to_physical_device_id(cls, name):
            return int(name)

    return globals().setdefault(name, RayOnCPUs)
"""
PORT = 6399  # of Ray's head, in the first namespace


class Machine:
    """A network namespace with an address, and the packages that its processes import first."""

    def __init__(self, name: str, address: str, paths: Sequence[Path]) -> None:
        self.name, self.address = name, address
        self.environment = {
            **os.environ,
            **ENVIRONMENT,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "VLLM_HOST_IP": address,
            "GLOO_SOCKET_IFNAME": "eth0",
            "RAY_ADDRESS": f"10.77.0.1:{PORT}",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            "RAY_memory_monitor_refresh_ms": "0",  # it ends workers of a busy machine
        }
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *words: object) -> subprocess.Popen[str]:
        """A module of Python as a process there; it ends with the machine."""
        made = subprocess.Popen(
            ["ip", "netns", "exec", self.name, sys.executable, "-m", *map(str, words)],
            env=self.environment,
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._running.append(made)
        return made

    def run(self, *words: object) -> tuple[int, str]:
        """The status and the output of a module of Python."""
        run = self.start(*words)
        said, _ = run.communicate(timeout=900)
        return run.returncode, said

    def stop(self) -> None:
        """End everything that was started here."""
        while self._running:
            process = self._running.pop()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        # What left its session: Ray starts its own processes so.
        listed = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, check=False
        )
        for number in listed.stdout.split():
            os.kill(int(number), signal.SIGKILL)


@contextmanager
def two_machines(folder: Path, with_otprune: bool = True) -> Iterator[tuple[Machine, Machine]]:
    """The first always has otprune; the second may lack it.

    A package that cannot be imported stands in front of otprune there, since all of this is one
    installation.
    """
    platform = folder / "platform"
    info = platform / "ray_on_cpus-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (platform / "ray_on_cpus.py").write_text(PLATFORM)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ray-on-cpus\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[vllm.platform_plugins]\nray_on_cpus = ray_on_cpus:platform\n"
    )
    absent = folder / "absent"
    (absent / "otprune").mkdir(parents=True, exist_ok=True)
    (absent / "otprune" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'otprune'\", name='otprune')\n"
    )
    ours = [ROOT / "src", ROOT / "bench", ROOT / "training"]
    names = [f"otprune{os.getpid()}{x}" for x in "ab"]
    made = [
        Machine(names[0], "10.77.0.1", [platform, *ours]),
        Machine(names[1], "10.77.0.2", [platform, *([] if with_otprune else [absent]), *ours]),
    ]
    try:
        for machine in made:
            _ip("netns", "add", machine.name)
        _ip(
            *("link", "add", "eth0", "netns", names[0], "type", "veth"),
            *("peer", "name", "eth0", "netns", names[1]),
        )
        for machine in made:
            _ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", machine.name, "link", "set", device, "up")
        yield made[0], made[1]
    finally:
        for machine in made:
            machine.stop()
            subprocess.run(["ip", "netns", "delete", machine.name], check=False)


def wait_for(text: str, process: subprocess.Popen[str]) -> None:
    """Return once a process has said so.

    Raises:
        RuntimeError: it ended before; the message is the end of its output.
    """
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    raise RuntimeError("".join(said[-60:]))


@contextmanager
def ray_on(head: Machine, other: Machine) -> Iterator[None]:
    """Ray on both, each with one device."""
    files = Path(f"/tmp/{head.name}")  # Ray's sockets are below it, and their paths must be short
    ray = ("ray.scripts.scripts", "start", "--block", "--num-cpus=1", "--num-gpus=1")
    few = ("--object-store-memory=200000000", "--disable-usage-stats")
    of_head = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={files}")
    try:
        for machine, words in ((head, of_head), (other, (f"--address={head.address}:{PORT}",))):
            started = machine.start(*ray, *few, *words, f"--node-ip-address={machine.address}")
            wait_for("Ray runtime started", started)
        yield
    finally:
        for machine in (other, head):
            machine.stop()
        shutil.rmtree(files, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
