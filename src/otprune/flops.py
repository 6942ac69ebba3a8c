"""What a prompt costs a language model, by formula."""

from __future__ import annotations


def prefill_flops(layers: int, hidden: int, intermediate: int, n: float) -> float:
    """Floating-point operations of the prefill of n tokens, by the formula of the literature.

    `layers * (4 n d^2 + 2 n^2 d + 2 n d f)`, d the hidden and f the intermediate size (FastV,
    arXiv 2403.06764, and the papers since). It counts a multiply-add as one operation, two of the
    three matrices of a gated MLP, and neither grouped heads, embeddings nor the image encoder:
    good for comparing with published figures, not for predicting seconds.
    """
    return float(layers * (4 * n * hidden**2 + 2 * n**2 * hidden + 2 * n * hidden * intermediate))


def kv_cache_bytes(
    layers: int, kv_heads: int, head_dim: int, n: int, bytes_per_element: int
) -> int:
    """Bytes of keys and values that n tokens of one sequence take in the KV cache."""
    return 2 * layers * kv_heads * head_dim * n * bytes_per_element
