"""How many images are encoded in one step: as many as without pruning, and never none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import otprune
from otprune.engines.vllm.rows import Asked, Plan, write

pytestmark = pytest.mark.vllm


@pytest.fixture
def cache(environment):
    from otprune.engines.vllm.pace import PacedEncoderCache

    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_encoder_input_tokens=100))
    return PacedEncoderCache.create_manager(cache_size=1000, vllm_config=config)


def request(name, *images):
    """Images of `(m, k)` tokens before and after pruning; k alone where m is not known."""

    def feature(i, m, k):
        row = m and {"otprune": SimpleNamespace(data=write(Plan(1, m, Asked(otprune.OTPrune(k)))))}
        return SimpleNamespace(data=row, identifier=f"{name}{i}", k=k)

    features = [feature(i, *image) for i, image in enumerate(images)]
    return SimpleNamespace(
        request_id=name,
        mm_features=features,
        get_num_encoder_embeds=lambda i: features[i].k,
    )


def encoded(cache, requests, budget=100):
    """The images that fit into one step, in order."""
    made = []
    for one in requests:
        taken = 0
        for i, feature in enumerate(one.mm_features):
            if not cache.can_allocate(one, i, budget, taken):
                break
            taken += feature.k
            budget -= feature.k
            made.append((one, i))
    for one, i in made:
        cache.allocate(one, i)
    cache.get_freed_mm_hashes()
    return [one.mm_features[i].identifier for one, i in made]


def test_a_budget_counts_images_before_pruning(cache):
    several = [request(name, (40, 4)) for name in "abc"]
    assert encoded(cache, several) == ["a0", "b0"], "and not all three, of 4 tokens each"
    assert encoded(cache, several[2:]) == ["c0"], "a step begins anew"


def test_images_of_one_request_count_together(cache):
    assert encoded(cache, [request("a", (40, 4), (40, 4), (40, 4))]) == ["a0", "a1"]


def test_the_first_image_of_a_step_is_never_refused(cache):
    large = [request(name, (500, 50)) for name in "ab"]
    assert encoded(cache, large) == ["a0"]
    assert encoded(cache, large[1:]) == ["b0"]


def test_placeholders_count_where_nothing_else_is_known(cache):
    assert encoded(cache, [request(name, (None, 40)) for name in "abc"]) == ["a0", "b0"]


def test_what_vllm_itself_refuses_is_refused(cache):
    assert encoded(cache, [request("a", (40, 40))], budget=30) == []
    assert encoded(cache, [request("b", (40, 4))]) == ["b0"], "and was not counted"
