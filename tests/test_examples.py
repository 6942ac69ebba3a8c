"""Every example runs as it stands, without a network, and prints what it promises."""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.random_tokens import TOKENS_ALONE

FOLDER = Path(__file__).parent.parent / "examples"
# Those need vLLM, and one Ray: tests/engines/vllm runs them.
ELSEWHERE = {"vllm_folder", "vllm_ray_data"}
NAMES = sorted({path.stem for path in FOLDER.glob("*.py")} - ELSEWHERE)
SAID = {
    "quickstart": [
        "all tokens: blue\n",
        "pruned:     blue\n",
        "Run(image 144 -> 14) kept: [0, 1, ",
    ],
    "own_data": [
        "keep 1.0   right 2/2  as unpruned 2/2  ",
        "keep 0.1   right 2/2  as unpruned 2/2  ",
    ],
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


@pytest.fixture(autouse=True, scope="module")
def few_questions(tmp_path_factory):
    """The first two of own_data: all twelve are asked by tests/docs."""
    lines = (FOLDER / "questions.jsonl").read_text().splitlines()[:2]
    file = tmp_path_factory.mktemp("data") / "few.jsonl"
    samples = str(FOLDER.parent / "src" / "otprune")
    file.write_text("\n".join(lines).replace("../src/otprune", samples))
    ARGUMENTS["own_data"] = [str(file)]


ARGUMENTS: dict[str, list[str]] = {}


@functools.cache
def output(name):
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", *ARGUMENTS.get(name, [])],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name):
    for words in SAID[name]:
        assert words in output(name)


def test_the_page_about_own_data_shows_the_example():
    code = (FOLDER / "own_data.py").read_text()
    page = (FOLDER.parent / "docs" / "own_data.md").read_text()
    for name in ("ask", "measure"):
        (shown,) = re.findall(rf"^def {name}\(.*?(?=\n\n\n)", page, flags=re.M | re.S)
        assert shown in code


def test_the_table_of_examples_has_every_one():
    table = (FOLDER / "README.md").read_text()
    for path in FOLDER.iterdir():
        if path.suffix in (".py", ".ipynb"):
            assert f"[{path.stem}]({path.name})" in table, path.name


def test_a_budget_goes_where_it_helps():
    """The plain image of the first prompt gets less than the photograph, and both their share."""
    lines = output("batch").splitlines()
    rows = [line.split()[-2] for line in lines if line.startswith("  prompt")]
    photo, plain, cat, rocket = map(int, rows[4:])
    assert photo + plain == 58
    assert photo > 2 * plain
    assert cat == rocket == 29
