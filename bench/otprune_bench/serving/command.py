"""`otprune bench serving`."""

from __future__ import annotations

from dataclasses import replace

from otprune_bench.options import Out, Quick, Seed, report_folder


def command(out: Out = None, seed: Seed = 0, quick: Quick = False) -> None:
    """Time to first token and throughput of a vLLM server, with 1, 4 and 16 requests at once.

    In an environment with vLLM (`make test-vllm` makes .venv-vllm); ten to twenty minutes on two
    cores.
    """
    from otprune_bench.serving.plan import FULL, QUICK
    from otprune_bench.serving.run import run

    with report_folder(out, "serving", quick) as folder:
        run(folder, replace(QUICK if quick else FULL, seed=seed))
