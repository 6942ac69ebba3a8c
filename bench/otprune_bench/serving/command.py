"""`otprune bench serving`."""

from __future__ import annotations

from otprune_bench.options import Out, Quick, Seed, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Time to first token and throughput of a vLLM server, with 1, 4 and 16 requests at once.

    In an environment with vLLM (`make test-vllm` makes .venv-vllm); ten to twenty minutes on two
    cores.
    """
    start("serving", out, seed, quick)
