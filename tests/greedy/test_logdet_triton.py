"""All picks in one launch: those of greedy pick by pick and in rounds.

On a machine without a GPU in Triton's interpreter (`tests/conftest.py`); there too it is compiled
for GPUs, which the interpreter does not do.
"""

import os
import re
import subprocess
import sys

import pytest
import torch

from otprune import OTPrune, OTPruneError
from otprune.greedy import logdet as search
from otprune.greedy import ties
from otprune.greedy.logdet import sequential
from otprune.measures.logdet import kernel_norms
from otprune.numerics import threads
from otprune.numerics.lowrank import LowRank
from tests.greedy.operations import Operations
from tests.random_tokens import random_tokens

pytest.importorskip("triton")
from otprune.greedy.logdet import triton_kernel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def both(tokens, k, gamma=1.0, shift=1.0):
    """Picks in one launch, and pick by pick, `(B, k)` each."""
    K, norms = kernel_norms(tokens.to(DEVICE), gamma)
    rank = ties.preference(norms)
    return triton_kernel.greedy(K, k, rank, shift).cpu(), sequential.greedy(K, k, rank, shift).cpu()


@pytest.mark.parametrize("common", [0.0, 1.0])
@pytest.mark.parametrize(("shape", "k"), [((1, 70, 20), 15), ((3, 45, 60), 20), ((2, 40, 40), 39)])
def test_the_same_picks(shape, k, common):
    g = torch.Generator().manual_seed(1)
    tokens = torch.randn(shape, generator=g) + common * torch.randn(shape[-1], generator=g)
    got, wanted = both(tokens, k)
    assert got.equal(wanted)
    K, norms = kernel_norms(tokens, 1.0)
    assert got.equal(search.greedy(K, k, ties.preference(norms), 1.0))


@pytest.mark.parametrize("m", [1, 2, 32, 33])
def test_one_pick_and_all_but_one(m):
    tokens = random_tokens(2, m, 8)
    for k in {1, max(1, m - 1), m}:
        got, wanted = both(tokens, k)
        assert got.equal(wanted)


@pytest.mark.parametrize("gamma", [1e-2, 1.0, 1e3])
def test_copies_and_nothing(gamma):
    """Wide tokens, so that sums do round: among copies the rule decides, and among zeros."""
    tokens = torch.stack([random_tokens(12, 300).repeat(3, 1), torch.zeros(36, 300)])
    got, wanted = both(tokens, 12, gamma)
    assert got.equal(wanted)
    assert got[1].equal(torch.arange(12))
    if gamma >= 1:  # copies have nothing new, so the first twelve are all there is
        assert got[0].sort().values.equal(torch.arange(12))


@pytest.mark.parametrize("d", [8, 64])
def test_sets_of_several_sizes_in_one_launch(d):
    """Whatever is in the padding, each picks as if it were alone."""
    sizes, counts = [40, 1, 17, 33], [12, 1, 16, 7]
    alone = [kernel_norms(random_tokens(1, m, d, seed=m).to(DEVICE), 1.0) for m in sizes]
    width = max(K.left.shape[-1] for K, _ in alone)
    left, right = (torch.full((4, 40, width), 7.0, device=DEVICE) for _ in range(2))
    rank = torch.zeros(4, 40, dtype=torch.int64, device=DEVICE)
    for b, (m, (K, norms)) in enumerate(zip(sizes, alone, strict=True)):
        left[b, :m], right[b, :m] = 0, 0  # features that a smaller set has not
        left[b, :m, : K.left.shape[-1]], right[b, :m, : K.left.shape[-1]] = K.left[0], K.right[0]
        rank[b, :m] = ties.preference(norms)[0]
    lengths, ks = torch.tensor(sizes, device=DEVICE), torch.tensor(counts, device=DEVICE)
    got = triton_kernel.greedy(LowRank(left, right), 16, rank, 1.0, lengths, ks)
    for row, k, (K, norms) in zip(got, counts, alone, strict=True):
        assert row[:k].equal(sequential.greedy(K, k, ties.preference(norms), 1.0)[0])
        assert (row[k:] == -1).all()


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("less", "first"), [(4e-7, 0), (3e-6, 1)])
def test_what_is_tied_does_not_depend_on_the_scale(scale, less, first):
    """Two tokens in directions of their own, the first a little shorter; ties would go to it."""
    x = torch.diag(torch.tensor([scale * (1 - less), scale]).sqrt())[None].to(DEVICE)
    rank = torch.tensor([[0, 1]], device=DEVICE)
    for way in (triton_kernel, sequential):
        assert way.greedy(LowRank(x, x), 1, rank, 1.0).tolist() == [[first]]


def test_the_selector_keeps_the_same():
    tokens = random_tokens(2, 50, 30)
    kept = OTPrune(9).select(tokens)
    assert OTPrune(9, backend="triton").select(tokens.to(DEVICE)).cpu().equal(kept)
    with pytest.raises(OTPruneError, match='expected "torch" or "triton"'):
        OTPrune(9, backend="cuda")


@pytest.mark.skipif(DEVICE == "cuda", reason="sets of a batch go to a GPU together")
def test_one_thread_at_a_time_in_the_interpreter(monkeypatch):
    """It replaces functions of Triton while it runs, and a batch on a CPU has threads."""
    locked, plain = [], triton_kernel._greedy

    class Watched:
        def __getitem__(self, grid):
            locked.append(threads._turn().locked())
            return plain[grid]

    monkeypatch.setattr(triton_kernel, "_greedy", Watched())
    tokens = random_tokens(3, 30, 12)
    assert OTPrune(5, backend="triton").select(tokens).equal(OTPrune(5).select(tokens))
    assert locked == [True] * 3


def test_operations_do_not_grow_with_the_picks():
    counts = set()
    for k in (4, 24):
        with Operations() as operations:
            OTPrune(k, backend="triton").select(random_tokens(3, 32, 16).to(DEVICE))
        counts.add(operations.all)
    assert len(counts) == 1


def run(code, **changes):
    environment = {**os.environ, **changes}
    environment.pop("TRITON_INTERPRET")
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


ASK = """
import otprune, torch
selector = otprune.OTPrune(3, backend="triton")
try: selector.select(torch.eye(9))
except otprune.OTPruneError as e: print(type(e).__name__, e)
"""


def test_refused_on_a_cpu():
    said = run(ASK).stdout
    assert said.startswith("UnsupportedError backend='triton' runs on CUDA and ROCm devices")
    assert "leave the backend at 'torch'" in said


def test_without_triton_it_says_what_to_install():
    said = run("import sys; sys.modules['triton'] = None" + ASK).stdout
    assert said.startswith("MissingDependencyError")
    assert "pip install 'otprune[triton]'" in said


COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from otprune.greedy.logdet import triton_kernel
reals = dict.fromkeys("left across diagonal factor".split(), "*fp32")
integers = dict.fromkeys("tie_order lengths counts order".split(), "*i64")
scalars = dict.fromkeys("mrk", "i32") | dict.fromkeys(["shift", "tolerance"], "fp32")
sizes = {"TOKENS": 1024, "ROWS": 8}
signature = reals | integers | scalars | dict.fromkeys(sizes, "constexpr")
for target in (GPUTarget("cuda", 80, 32), GPUTarget("hip", "gfx942", 64)):
    source = ASTSource(triton_kernel._greedy, signature, sizes)
    text = compile(source, target, {"num_warps": 8, "num_stages": 1}).asm["ttgir"]
    print(text)
"""


def test_it_compiles_and_the_factor_waits_behind_a_barrier(tmp_path):
    done = run(COMPILE, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for text in done.stdout.split("module attributes")[1:]:
        *_, after = re.split(r"\bstore|_store", text)
        assert "barrier" in after.split("scf.yield")[0]
