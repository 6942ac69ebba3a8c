"""The benches, in the order of tables. A bench is one folder and one line of `BENCHES`.

To add a bench NAME:

1. Make the folder `otprune_bench/NAME/` with an empty `__init__.py` and these modules, each of
   which imports only from those above it:

   - `plan.py`, what is measured: sizes and constants, a frozen dataclass `Plan` with `seed` and
     `settings()`, and two of it, `FULL` and `QUICK`;
   - `cases.py`, how it is measured: `cases(...)` yields (key, function), see `runs/cases.py`;
   - `report.py`, words, tables and plots (it imports the plan, not the cases);
   - `run.py`, `run(folder, plan)`: `run_cases`, figures, plots, `write_report`;
   - `command.py`, the options: a function `command`, whose docstring is the help. It calls
     `options.start`, which imports plan and run, so that `otprune bench --help` stays light. Beside
     it there may be a `__main__.py`, for machines without what the command line needs.

   More modules (`summary.py`, from runs to figures) where they help. A bench imports no other
   bench: what two of them need goes to `embedded/`, `figures/`, `runs/`, `served/` or `timing/`.

2. Add `Bench("NAME")` below. The command line, `otprune bench all`, `make bench-quick` and the
   tests of all benches find it there; `tests/bench/test_imports.py` holds the shape of its folder.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple


class Bench(NamedTuple):
    """One bench.

    Attributes:
        name: of its command and of its folder.
        server: needs vLLM, and so an environment of its own: `otprune bench all` leaves it out.
        card: needs a CUDA card: `otprune bench all` leaves it out too, but quick, on the CPU.
    """

    name: str
    server: bool = False
    card: bool = False

    def command(self) -> Callable[..., None]:
        """The function behind `otprune bench NAME`."""
        found: Callable[..., None] = import_module(f"otprune_bench.{self.name}.command").command
        return found


BENCHES = (
    Bench("quality"),
    Bench("alignment"),
    Bench("mass"),
    Bench("distance"),
    Bench("tokens"),
    Bench("encoder"),
    Bench("efficiency"),
    Bench("synthetic"),
    Bench("speed"),
    Bench("serving", server=True),
    Bench("soak", server=True),
    Bench("stream"),
    Bench("robot"),
    Bench("watch"),
    Bench("gpu", card=True),
)
