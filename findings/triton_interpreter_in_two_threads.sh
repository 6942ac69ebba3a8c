#!/usr/bin/env bash
# Triton 3.9.0: with TRITON_INTERPRET=1, launches in two threads at a time make each other fail.
#
# The interpreter replaces functions of triton.language for the time of a launch and puts them back
# at its end, for the whole process. A launch that ends in one thread takes them away from one that
# still runs in another, whose kernel then raises as if it were no kernel. The message says so of a
# kernel that is decorated, and that runs in one thread. Compiled kernels have no such state.
#
# Seen: one thread: 0 of 400 launches failed; two threads: some did, with InterpreterError, "Did you
# forget to add @triton.jit ?".
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 triton==3.9.0 numpy
cat > "$dir/kernel.py" <<'PYTHON'
from concurrent.futures import ThreadPoolExecutor

import torch
import triton
import triton.language as tl


@triton.jit
def double(x, y, n, SIZE: tl.constexpr):
    for start in range(0, n, SIZE):
        i = start + tl.arange(0, SIZE)
        tl.store(y + i, 2 * tl.load(x + i, mask=i < n), mask=i < n)


def launch(_):
    x = torch.arange(512.0)
    y = torch.empty_like(x)
    try:
        double[(1,)](x, y, 512, SIZE=16)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    assert y.equal(2 * x)
    return None


def failures(threads):
    with ThreadPoolExecutor(threads) as pool:
        return [found for found in pool.map(launch, range(400)) if found]


alone, together = failures(1), failures(2)
print(f"one thread: {len(alone)} of 400 failed; two: {len(together)}")
print(together[:1])
assert not alone, alone[:1]
assert any("Did you forget to add @triton.jit" in found for found in together), together[:3]
PYTHON
TRITON_INTERPRET=1 "$dir/venv/bin/python" "$dir/kernel.py"
