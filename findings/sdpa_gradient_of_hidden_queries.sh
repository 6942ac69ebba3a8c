#!/usr/bin/env bash
# torch 2.13.0, CPU: scaled_dot_product_attention's fused kernel gives wrong gradients for a query
# whose n keys are all hidden by an additive mask of finfo.min, as padding in front is. The output
# is that of the math backend; the gradient that reaches the values is n times as large. Nothing
# is raised. It matters as soon as a loss depends on such a query's output.
# Seen: outputs differ by at most 1e-6; ratio of the gradients 4.00, 16.00, 64.00 for n = 4, 16, 64.
# Exits non-zero if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.2.6

"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def run(backend, n):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, 1, n, 8, requires_grad=True) for _ in range(3))
    mask = torch.zeros(1, 1, n, n)
    mask[..., 0, :] = torch.finfo(torch.float32).min
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    out[..., 0, :].sum().backward()
    return out.detach(), value.grad


for n in (4, 16, 64):
    wanted, right = run(SDPBackend.MATH, n)
    out, gradient = run(SDPBackend.FLASH_ATTENTION, n)
    ratio = float(gradient.sum() / right.sum())
    print(f"n = {n}: outputs differ by {float((out - wanted).abs().max()):.0e}, ratio {ratio:.2f}")
    assert (out - wanted).abs().max() < 1e-5
    assert abs(ratio - n) < 0.01 * n
PYTHON
