"""The published figures of LLaVA-1.5-7B come out of the formula."""

import pytest

from otprune import kv_cache_bytes, prefill_flops

# Mean prompt lengths, without the image, of the eleven benchmarks in OTPrune's tables.
TEXT_TOKENS = [15, 15, 23, 83, 25, 113, 15, 39, 21, 91, 57]


@pytest.mark.parametrize(("visual", "tera"), [(576, 3.2280), (56, 0.5122)])
def test_published_tflops(visual, tera):
    each = [prefill_flops(32, 4096, 11008, visual + text) for text in TEXT_TOKENS]
    assert sum(each) / len(each) / 1e12 == pytest.approx(tera, abs=5e-5)


def test_kv_cache():
    # Llama-2-7B in fp16: half a megabyte a token.
    assert kv_cache_bytes(32, 32, 128, 1, 2) == 512 * 1024
