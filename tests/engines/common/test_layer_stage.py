"""What a layer stage says: its cuts, the layers of a model, and the numbers that stay."""

import pytest

import otprune
from otprune import KeepError, LayerStage, OTPruneError

DEFAULTS = [  # of 32 layers and 576 tokens, as published
    ("fastv", [2], [288]),
    ("pyramiddrop", [8, 16, 24], [288, 144, 72]),
    ("dart", [2], [128]),
    ("vtw", [15], [0]),
    ("sparsevlm", [3, 7, 16], [300, 200, 118]),
]


@pytest.mark.parametrize(("rank", "layers", "numbers"), DEFAULTS)
def test_defaults_are_the_published_settings(rank, layers, numbers):
    stage = LayerStage(rank=rank)
    assert stage.layers(32) == layers
    assert [stage.numbers(cut, [576], [576])[0] for cut in range(len(layers))] == numbers


def test_the_plain_stage_is_fastv():
    assert (LayerStage().rank, LayerStage().cuts, LayerStage().keeps) == ("fastv", (2,), (0.5,))
    assert otprune.LayerStage is LayerStage
    assert hash(LayerStage(after=[1, 2], keep=[3, 1])) == hash(LayerStage((1, 2), (3, 1)))


def test_a_share_of_the_layers_leaves_one_on_either_side():
    assert LayerStage(0.01, 0.5).layers(12) == [1]
    assert LayerStage(0.99, 0.5).layers(12) == [11]
    assert LayerStage((2, 0.5), (64, 16)).layers(28) == [2, 14]


def test_numbers_count_what_entered_the_model_and_keep_what_is_left():
    stage = LayerStage((1, 2, 3), (0.5, 0.75, 3))
    assert stage.numbers(0, [10, 5, 0], [10, 5, 0]) == [5, 2, 0]
    assert stage.numbers(1, [10, 5, 0], [5, 2, 0]) == [5, 2, 0]
    assert stage.numbers(2, [10, 5, 0], [5, 2, 0]) == [3, 2, 0]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"rank": "fast"}, OTPruneError, "rank='fast' .* 'fastv', 'pyramiddrop'"),
        ({"after": 0}, OTPruneError, "after=0 .* >= 1"),
        ({"after": True}, OTPruneError, "after=True"),
        ({"after": 1.0}, OTPruneError, "after=1.0 .* share"),
        ({"after": "2"}, OTPruneError, "after='2'"),
        ({"after": ()}, OTPruneError, "at least one cut"),
        ({"after": (1, 2)}, OTPruneError, "2 cuts and 1 values of keep"),
        ({"after": 3, "rank": "pyramiddrop"}, OTPruneError, "1 cuts and 3 values of keep"),
        ({"keep": 0}, KeepError, "would leave no token"),
        ({"keep": (0.5, 1.5), "after": (1, 2)}, KeepError, "more than everything"),
        ({"keep": "auto"}, KeepError, "must be known before"),
        ({"keep": 0.5, "rank": "vtw"}, KeepError, "keeps none"),
    ],
)
def test_wrong_values_are_refused(given, error, said):
    with pytest.raises(error, match=said):
        LayerStage(**given)


@pytest.mark.parametrize("after", [4, (2, 2), (3, 2), (0.51, 0.52)])
def test_cuts_that_do_not_fit_a_model_are_refused(after):
    keep = (0.5,) * len(after) if isinstance(after, tuple) else 0.5
    with pytest.raises(OTPruneError, match="the language model has 4"):
        LayerStage(after, keep).layers(4)
