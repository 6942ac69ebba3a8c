"""`otprune bench soak`."""

from __future__ import annotations

from otprune_bench.options import Out, Quick, Seed, start


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """10,000 mixed requests to vLLM servers, 16 at once: counts, answers, memory, clean stop.

    Images of all sizes, videos, broken images, wrong settings, answers that nobody waits for,
    repeats. In an environment with vLLM (`make test-vllm` makes .venv-vllm); half an hour on two
    cores.
    """
    start("soak", out, seed, quick)
