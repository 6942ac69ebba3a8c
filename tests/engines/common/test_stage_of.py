"""Plain settings of a selection inside the encoder, as text and JSON give them."""

import pytest

from otprune import EncoderStage, KeepError, OTPruneError
from otprune.engines.common.stage import stage_of


def test_a_stage_from_plain_values():
    assert stage_of() is None
    assert stage_of(None, None) is None
    assert stage_of(0.35) == EncoderStage(0.35)
    assert stage_of(200, 12) == EncoderStage(200, after=12)
    assert stage_of(1.0, 0.25) == EncoderStage(1.0, after=0.25)


@pytest.mark.parametrize(
    ("keep", "after", "error", "said"),
    [
        (None, 0.5, OTPruneError, "encoder_after=0.5 .* encoder_keep is missing"),
        (0, None, KeepError, "inside the encoder: keep=0 would leave no token"),
        (1.5, None, KeepError, "inside the encoder: keep=1.5 is more than everything"),
        ("auto", None, KeepError, "inside the encoder: keep=.* expected a ratio or a number"),
        ("half", None, KeepError, "inside the encoder: keep is 'half'"),
        (0.5, 1.0, OTPruneError, "inside the encoder: after=1.0"),
        (0.5, "half", OTPruneError, "inside the encoder: after='half'"),
    ],
)
def test_wrong_values_say_that_the_encoder_is_meant(keep, after, error, said):
    with pytest.raises(error, match=said):
        stage_of(keep, after)
