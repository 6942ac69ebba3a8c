"""OTPrune keeps what the published code keeps, whichever search finds it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from otprune import OTPrune
from otprune.greedy import ties
from otprune.greedy.logdet import sequential
from otprune.measures import logdet

CASES = json.loads((Path(__file__).parents[1] / "golden" / "selections.json").read_text())


def remake(case):
    m, d = case["m"], case["d"]
    g = np.random.default_rng(case["seed"])

    def normal(*shape):
        return g.standard_normal(shape, dtype=np.float32)

    if case["kind"] == "normal":
        tokens = normal(m, d)
    else:
        r = min(m, d, 200)
        s = (np.arange(1, r + 1) ** -0.7).astype(np.float32)
        A, B = normal(m, r) * s, normal(r, d)
        tokens = A @ B + normal(1, d) + np.float32(0.1) * normal(m, d)
    assert np.abs(tokens.astype(np.float64)).sum() == pytest.approx(case["checksum"], rel=1e-6)
    return tokens


def cases(most=float("inf")):
    return pytest.mark.parametrize(
        "case",
        [c for c in CASES if c["m"] <= most],
        ids=lambda c: f"{c['kind']}-{c['m']}x{c['d']}-{c['k']}",
    )


@cases()
def test_golden(case):
    tokens = remake(case)
    compare(OTPrune(case["k"], gamma=0.01).select(tokens), tokens, case)


def found(search, tokens, case):
    K, norms = logdet.kernel_norms(torch.from_numpy(tokens)[None], 0.01)
    return search(K, case["k"], ties.preference(norms), 1.0)[0].sort().values


@cases()
def test_golden_pick_by_pick(case):
    tokens = remake(case)
    compare(found(sequential.greedy, tokens, case), tokens, case)


@cases(most=256)
def test_golden_in_one_launch(case):
    pytest.importorskip("triton")
    from otprune.greedy.logdet import triton_kernel

    tokens = remake(case)
    compare(found(triton_kernel.greedy, tokens, case), tokens, case)


def compare(kept, tokens, case):
    if kept.tolist() != case["kept"]:  # a near tie went the other way
        K = logdet.kernel(torch.from_numpy(tokens).double()[None], 0.01)
        ours, theirs = (
            logdet.certify(K, torch.as_tensor(chosen)).value for chosen in (kept, case["kept"])
        )
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert len(set(kept.tolist()) & set(case["kept"])) > 0.9 * case["k"]
