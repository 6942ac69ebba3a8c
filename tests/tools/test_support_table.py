"""docs/support.md says what holds for the installed transformers."""

from __future__ import annotations

import json

import pytest
import transformers

from tools.support_sweep import outcome
from tools.support_table import RECORD, TABLE, table

SWEEP = json.loads(RECORD.read_text())
same_version = pytest.mark.skipif(
    SWEEP["transformers"] != transformers.__version__,
    reason=f"the table is of transformers {SWEEP['transformers']}",
)


@same_version
def test_the_table_is_what_the_generator_writes() -> None:
    assert TABLE.read_text() == table(SWEEP), "run python -m tools.support_table"


@same_version
def test_a_class_that_went_wrong_is_not_listed_as_working() -> None:
    wrong = {"AriaForConditionalGeneration": {"outcome": "wrong", "why": "other answer"}}
    with pytest.raises(ValueError, match=r"AriaForConditionalGeneration .* other answer"):
        table(SWEEP | {"classes": SWEEP["classes"] | wrong})


@pytest.mark.slow
@same_version
@pytest.mark.parametrize("name", [n for n, c in SWEEP["classes"].items() if c["outcome"] == "ran"])
def test_what_ran_still_runs(name: str) -> None:
    assert outcome(name) == {"outcome": "ran"}
