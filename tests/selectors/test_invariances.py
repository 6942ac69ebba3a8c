"""What a choice depends on: docs/how_it_works.md says it, and here it is tested."""

from itertools import pairwise

import pytest
import torch

from otprune import OTPrune, SimplexPrune
from otprune.demo import SAMPLES_DIR
from otprune.measures.distances import exact_w2, free_mass_w2, gaussian_w2
from tests.random_tokens import TOKENS_ALONE, random_tokens

K = 20
BY_FEATURES = [method for name, method in TOKENS_ALONE.items() if name not in ("grid", "random")]


def rotation(d):
    return torch.linalg.qr(random_tokens(d, d, seed=7).double()).Q.float()


@pytest.mark.parametrize("method", BY_FEATURES)
def test_a_rotated_basis_changes_only_methods_that_look_at_features(method):
    """OTPrune scales every feature, SimplexPrune those that dominate."""
    tokens = random_tokens(120, 32)
    same = method(K).select(tokens @ rotation(32)).equal(method(K).select(tokens))
    assert same == (method not in (OTPrune, SimplexPrune))


@pytest.mark.parametrize("method", BY_FEATURES)
def test_a_feature_of_another_scale_changes_all_but_otprune(method):
    tokens = random_tokens(120, 32)
    scaled = tokens.clone()
    scaled[:, 5] *= 1e4
    same = method(K).select(scaled).equal(method(K).select(tokens))
    assert same == (method is OTPrune)


def test_only_the_free_mass_distance_never_rises_when_a_token_is_added():
    Image = pytest.importorskip("PIL.Image")
    from otprune import demo

    model, processor = demo.load()
    image = Image.open(SAMPLES_DIR / "coffee.jpg").convert("RGB")
    inputs = processor(images=[image], text="<image> ?", return_tensors="pt")
    with torch.no_grad():
        tokens = model.model.get_image_features(inputs["pixel_values"]).pooler_output[0]
    tokens = tokens.reshape(-1, tokens.shape[-1])
    sets = [tokens[OTPrune(k).select(tokens)] for k in range(1, 41)]
    for distance, rises in ((gaussian_w2, True), (exact_w2, True), (free_mass_w2, False)):
        values = [distance(tokens, kept) for kept in sets]
        assert any(b > a + 1e-9 for a, b in pairwise(values)) == rises
