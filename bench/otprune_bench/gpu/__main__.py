"""`python -m otprune_bench.gpu`: the bench where torch is installed and the command line is not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from otprune.errors import OTPruneError
from otprune_bench.gpu.plan import FULL, PARTS, QUICK


def main(words: Sequence[str] | None = None) -> int:
    """Parse, run, and say where the report is; 1 if it could not be made."""
    parser = argparse.ArgumentParser(
        prog="python -m otprune_bench.gpu",
        description="On a CUDA card: the same choices as on a CPU, times of selection, two 7B "
        "models, kernels. Twelve minutes. An interrupted run goes on with the same --out.",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where results and report go")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeat it")
    parser.add_argument(
        "--minutes", type=float, help="start nothing that would end later; 0 for no limit"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="small sizes, on a CPU too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dry-run", action="store_true", help="print what each case is expected to take, and end"
    )
    given = parser.parse_args(words)
    changes: dict[str, Any] = {"seed": given.seed}
    changes |= {} if given.part is None else {"parts": tuple(given.part)}
    changes |= {} if given.minutes is None else {"minutes": given.minutes}
    changes |= {} if given.device is None else {"device": given.device}
    try:
        plan = replace(QUICK if given.quick else FULL, **changes)
        if given.dry_run:
            from otprune_bench.gpu.cases import expected_seconds
            from otprune_bench.gpu.report import dry_run

            print(dry_run(plan, expected_seconds(plan)))
            return 0
        from otprune_bench.gpu.run import run

        folder = given.out or Path("out") / "bench" / ("gpu-quick" if given.quick else "gpu")
        folder.mkdir(parents=True, exist_ok=True)
        run(folder, plan)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    except (OTPruneError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"report written to {folder / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
