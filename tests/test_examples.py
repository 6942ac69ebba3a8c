"""Every example runs as it stands, without a network, and prints what it promises."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.random_tokens import TOKENS_ALONE

FOLDER = Path(__file__).parent.parent / "examples"
SAID = {
    "own_selector": [
        "three sets of tokens: (3, 14)",
        "keep=0.2: 144 -> 29 tokens, blue",
        "keep=auto: 144 -> ",
    ],
    "weights": [
        "all alike: 3 of 16 kept tokens in the corner, top-right",
        "the corner: 11 of 16 kept tokens in the corner, top-right",
        "the same from the tokens alone: True",
    ],
    "batch": ["keep=0.2\n" + "  prompt 0: 144 -> 29 tokens\n" * 2, "  blue\n  ring\n  3\n"],
    "policy": [
        "policy: Run(image 64 -> 16, image 64 -> 16; 128 -> 32 in all) -> (1, 8, 7) actions",
        "reward: Run(image 64 -> 16, image 64 -> 16; 128 -> 32 in all) -> (2, 1) scores",
    ],
    "camera": [
        "  0.0 s  Is there a red circle? no\n",
        "  2.0 s  Is there a red circle? yes\n",
        "  6.0 s  Is there a red circle? no\n48 frames seen, 0 dropped\n",
    ],
    "robot": [" 0  x =  80  24/144 tokens  left: yes\n", "x = 300", "  left: no\n"],
    "video": ["  0.0 s: ", "24 frames, ", "Is there a red circle? yes\n"],
    "compare": ["coffee: 144 tokens of 128 features", *TOKENS_ALONE, ", certificate 0."],
}


@functools.cache
def output(name):
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py"],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_it_runs(name):
    for words in SAID[name]:
        assert words in output(name)


def test_a_budget_goes_where_it_helps():
    """The plain image of the first prompt gets less than the photograph, and both their share."""
    lines = output("batch").splitlines()
    rows = [line.split()[-2] for line in lines if line.startswith("  prompt")]
    photo, plain, cat, rocket = map(int, rows[4:])
    assert photo + plain == 58
    assert photo > 2 * plain
    assert cat == rocket == 29
