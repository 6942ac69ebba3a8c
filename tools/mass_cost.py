"""What attention mass costs in time and memory, beside the same pruning without it.

    python -m tools.mass_cost [--shape llava|onevision|tiny] [--keep 0.25] [--repeats 5]

A model of real size with random weights in bfloat16 (`otprune_bench.timing.shapes`), one image,
encoded before the clock starts. Runs of all settings take turns; a figure is the median over rounds
of the ratio to the run without mass of the same round. Memory is the most bytes of tensors that a
call holds at once (`otprune_bench.timing.memory`), counted, not sampled.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from otprune import TransportPrune
from otprune.measures.mass import Mass
from otprune_bench.timing import measure
from otprune_bench.timing.memory import peak_bytes
from otprune_bench.timing.shapes import LLAVA, ONEVISION, TINY

SHAPES = {"llava": LLAVA, "onevision": ONEVISION, "tiny": TINY}
MASSES: tuple[Mass, ...] = ("none", "total", "token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="llava")
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--attention", choices=("sdpa", "eager"), default="sdpa")
    arguments = parser.parse_args()

    shape, selector = SHAPES[arguments.shape], TransportPrune(arguments.keep)
    model, inputs = shape.build(), shape.inputs(seed=0)
    model.set_attn_implementation(arguments.attention)
    encoded = measure.encode(model, inputs)
    rounds = []
    for _ in range(arguments.repeats + 1):
        rounds.append({m: measure.generate(model, encoded, selector, 5, m) for m in MASSES})
    rounds = rounds[1:]  # the first warms up

    print(
        f"{shape.name}, {shape.layers} layers, {arguments.attention}, keep {arguments.keep}, "
        f"prompt of {rounds[0]['none'].prompt} tokens, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {arguments.repeats} rounds"
    )
    print("| mass | to the first token | a step after it | peak memory | bytes more |")
    print("| --- | --- | --- | --- | --- |")
    least = 0
    for mass in MASSES:
        peak = peak_bytes(lambda mass=mass: measure.generate(model, encoded, selector, 2, mass))
        least = least or peak
        first = [r[mass].tokens[0] / r["none"].tokens[0] for r in rounds]
        steps = [_step(r[mass]) / _step(r["none"]) for r in rounds]
        print(
            f"| {mass} | x {statistics.median(first):.3f} | x {statistics.median(steps):.3f} "
            f"| {peak / 2**20:.1f} MiB | {peak - least:,} |"
        )


def _step(timed: measure.Timed) -> float:
    """Median seconds of a step after the first token."""
    pairs = zip(timed.tokens, timed.tokens[1:], strict=False)
    return statistics.median(b - a for a, b in pairs)


if __name__ == "__main__":
    main()
