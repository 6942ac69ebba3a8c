"""One entry of each class in docs/support.json, tried anew."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from typing import Any

import torch
import transformers

from otprune.engines.transformers import support
from tools.support_table import RECORD, classes


def write(entry: str, outcome: Callable[[str], dict[str, Any]], parts: list[str]) -> None:
    """Try every class that otprune accepts, and whose name has one of some parts, if any are given.

    Args:
        entry: the name of what is written.
        outcome: what became of a class: `outcome`, and `why` or the `calls` that held.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text())
    for name in classes():
        if parts and not any(part.lower() in name.lower() for part in parts):
            continue
        if support(getattr(transformers, name))[0]:
            made = outcome(name)
            record["classes"][name][entry] = made
            told = made.get("why") or " ".join(made.get("calls", []))
            print(f"{name:48s} {made['outcome']:8s} {told[:150]}", flush=True)
    record["classes"] = dict(sorted(record["classes"].items()))
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
