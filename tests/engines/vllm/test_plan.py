"""A plan beside processors that need torchvision, which this environment has; no vLLM in it.

The other families are in tests/planning.
"""

from __future__ import annotations

import pytest

from otprune.errors import OTPruneError, UnsupportedError
from tests.planning.checks import SIZES, check_costs, check_tokens, inputs, model, planned
from tests.planning.processors import TORCHVISION
from tools import plan_table

pytestmark = pytest.mark.vllm
VIDEO = ("llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TORCHVISION)
def test_tokens_are_those_of_processor_model_and_engine(name: str, size: str) -> None:
    if (name, size) == ("mistral3", "icon"):
        pytest.skip("one token, which the model itself cannot encode: the test below")
    check_tokens(name, [SIZES[size]])


def test_what_the_model_cannot_encode_is_refused() -> None:
    given = inputs("mistral3", [SIZES["icon"]])
    with pytest.raises(RuntimeError, match="split_sizes"):
        model("mistral3")(**given)
    with pytest.raises(UnsupportedError, match=r"fails to encode images of these sizes .*split"):
        check_tokens("mistral3", [SIZES["icon"]])


@pytest.mark.parametrize("name", TORCHVISION)
def test_several_images_of_different_sizes(name: str) -> None:
    check_tokens(name, [SIZES["square"], SIZES["tall strip"], (60, 40)])


@pytest.mark.parametrize("name", TORCHVISION)
def test_operations_and_cache_are_those_of_the_real_model(name: str) -> None:
    check_costs(name, [SIZES["wide strip"]])


@pytest.mark.parametrize("frames", [2, 5])
@pytest.mark.parametrize("name", VIDEO)
def test_videos(name: str, frames: int) -> None:
    check_tokens(name, [(320, 240)], frames)


def test_the_reason_of_a_processor_is_passed_on() -> None:
    with pytest.raises(OTPruneError, match="refuses 1 frame of 320x240: t:1 must be larger"):
        planned("qwen3_vl", (320, 240), frames=1)
    with pytest.raises(OTPruneError, match="refuses 4000x10: absolute aspect ratio must be small"):
        planned("qwen2_vl", (4000, 10))


@pytest.mark.parametrize("name", ["Qwen3-VL-4B"])
def test_the_table_of_the_page_is_current(name: str) -> None:
    page = plan_table.PAGE.read_text()
    for row in plan_table.rows(name):
        assert row in page
