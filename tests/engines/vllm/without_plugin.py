"""Run by a test in a process of its own: two ranks, started where the plugin is left out.

    python -m tests.engines.vllm.without_plugin CHECKPOINT

The engine has the plugin; its workers are spawned with a VLLM_PLUGINS that does not name it, as on
a machine that is set up otherwise.
"""

from __future__ import annotations

import os
import sys

from .engines import ENVIRONMENT, engine


def main() -> None:
    """Start; this fails."""
    os.environ.update(ENVIRONMENT, VLLM_WORKER_MULTIPROC_METHOD="spawn")
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    os.environ["VLLM_PLUGINS"] = "another"
    with engine(sys.argv[1], {"keep": 0.25}, tensor_parallel_size=2):
        print("STARTED")


if __name__ == "__main__":
    main()
