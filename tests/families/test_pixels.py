"""Pixels and grouping of images and videos in model classes that are not in the matrix."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from otprune import DivPrune, OTPrune, UnsupportedError, prune, prune_inputs
from otprune.engines.transformers import support
from otprune.engines.transformers.families import family
from otprune.engines.transformers.features import PIXELS
from tools.small_models import small
from tools.support_cases import Case, NotRunError, cases, video_cases
from tools.support_table import classes

from .tiny import FAMILIES

HALF = DivPrune(keep=0.5)
FEW = DivPrune(keep=3)


@functools.cache
def model(name: str) -> Any:
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    able, why = support(getattr(transformers, name))
    if not able:
        pytest.skip(f"transformers {transformers.__version__}: {why}")
    return small(getattr(transformers, name))


def case(name: str, call: str) -> Case:
    """One of the sweep's calls."""
    made = video_cases if "video" in call else cases
    try:
        with torch.no_grad():
            return next(case for case in made(model(name)) if case.name == call)
    except NotRunError as error:
        pytest.skip(f"transformers {transformers.__version__}: {error.detail}")


def found(name: str, inputs: dict[str, Any]) -> list[tuple[int, str, int, str]]:
    """Row, modality, kept tokens and unit of what is found in a call, three tokens of each."""
    scheme = "compact" if family(model(name).config).positions else "preserved"
    with torch.no_grad(), prune(model(name), FEW, scheme) as run:
        model(name)(**inputs)
    assert run.last is not None
    return [(item.row, item.modality, item.after, item.unit) for item in run.last]


def test_every_name_of_pixels_is_known() -> None:
    for name in classes():
        cls = getattr(transformers, name)
        if support(cls)[0]:
            takes = inspect.signature(cls.forward).parameters
            pixels = {p for p in takes if re.search(r"pixel_values|image_patches", p)}
            assert pixels <= set(PIXELS), name
            assert pixels, name


def test_pixels_without_an_encoder_are_refused() -> None:
    llava = FAMILIES["llava"]
    inputs = llava.inputs((1,))
    for lost in ("pixel_values_videos", "image_patches", "high_res_pixel_values"):
        more = inputs | {lost: torch.zeros(1, 3, 56, 56)}
        for keep in (0.5, 1.0):
            with pytest.raises(
                UnsupportedError, match=f"image_patches|no encoder that takes {lost}"
            ):
                prune_inputs(llava.model(), more, OTPrune(keep))
    alone = {name: x for name, x in inputs.items() if name != "pixel_values"}
    with pytest.raises(UnsupportedError, match="no encoder that takes pixel_values_videos"):
        prune_inputs(llava.model(), alone | {"pixel_values_videos": torch.zeros(1)}, HALF)


def test_videos_that_the_model_prunes_itself_are_refused() -> None:
    qwen = FAMILIES["qwen2_vl"]
    pruning = qwen.model()
    pruning.config.video_pruning_rate = 0.5
    with pytest.raises(UnsupportedError, match="video_pruning_rate"):
        prune_inputs(pruning, qwen.inputs((1,), video=True), HALF)
    prune_inputs(pruning, qwen.inputs((1,)), HALF)


def fuyu(rows: list[int]) -> tuple[dict[str, Tensor], Tensor]:
    """The output of Fuyu's processor for one image a sequence, and the patches of all."""
    config = model("FuyuForCausalLM").config
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(sum(6 * n for n in rows), 3 * config.patch_size**2, generator=generator)
    ids = [[*[config.image_token_id] * 6, 40] * n + [1, 50, 51] for n in rows]
    longest = max(map(len, ids))
    prompt = torch.tensor([[0] * (longest - len(row)) + row for row in ids])
    return {"input_ids": prompt, "attention_mask": (prompt != 0).long()}, patches


def test_fuyu_gets_the_patches_under_the_name_of_its_processor() -> None:
    inputs, patches = fuyu([3, 2])
    legacy, new = inputs | {"image_patches": patches}, inputs | {"pixel_values": patches}
    fuyu_model = model("FuyuForCausalLM")
    settings = {"max_new_tokens": 3, "do_sample": False}
    with torch.no_grad():
        plain, blind = fuyu_model(**legacy).logits, fuyu_model(**inputs).logits
        assert float((plain - blind).abs().max()) > 0.1
        answer = fuyu_model.generate(**legacy, **settings)
        with prune(fuyu_model, OTPrune(1.0)):
            assert torch.equal(fuyu_model(**legacy).logits, plain)
            assert torch.equal(fuyu_model.generate(**legacy, **settings), answer)
        with prune(fuyu_model, HALF) as run:
            pruned = fuyu_model(**legacy).logits
            assert [item.before for item in run.last or []] == [18, 12]
            assert torch.equal(fuyu_model(**new).logits, pruned)
        assert pruned.shape[1] == plain.shape[1] - 9
    with pytest.raises(UnsupportedError, match="image_patches and pixel_values are one argument"):
        prune_inputs(fuyu_model, legacy | new, HALF)


def test_adjacent_images_of_idefics2_are_separate() -> None:
    call = case("Idefics2ForConditionalGeneration", "touching")
    runs = "".join(
        "x" if i in {c for *_, cs in call.found for c in cs} else " " for i in range(200)
    )
    assert len(runs.split()) == 2
    assert re.search("x x", runs)
    assert found("Idefics2ForConditionalGeneration", call.inputs) == [(0, "image", 3, "image")] * 2


def test_adjacent_images_of_aria_are_refused() -> None:
    call = case("AriaForConditionalGeneration", "touching")
    with pytest.raises(UnsupportedError, match=r"AriaForConditionalGeneration: 8 placeholders"):
        prune_inputs(model("AriaForConditionalGeneration"), call.inputs, HALF)
    batch = case("AriaForConditionalGeneration", "batch")
    kept = found("AriaForConditionalGeneration", batch.inputs)
    assert kept == [(0, "image", 3, "image"), (2, "image", 3, "image"), (2, "image", 3, "image")]


def test_lfm2_vl_without_special_tokens() -> None:
    """Images of one tile with text between them are separate; adjacent ones are refused."""
    name = "Lfm2VlForConditionalGeneration"
    call = case(name, "two")
    ids, mask = call.inputs["input_ids"], call.inputs["attention_mask"]
    token = model(name).config.image_token_id
    bare = torch.tensor([[60, *[token] * 4, 61, *[token] * 4, 61]])
    inputs = call.inputs | {"input_ids": bare, "attention_mask": torch.ones_like(bare)}
    with pytest.raises(UnsupportedError, match="two images or two tiles"):
        found(name, inputs)
    bare = torch.tensor([[60, *[token] * 4, 61, 62, *[token] * 4, 61]])
    inputs = call.inputs | {"input_ids": bare, "attention_mask": torch.ones_like(bare)}
    assert found(name, inputs) == [(0, "image", 3, "image")] * 2
    bare = torch.tensor([[60, *[token] * 8, 61]])
    inputs = call.inputs | {"input_ids": bare, "attention_mask": torch.ones_like(bare)}
    with pytest.raises(UnsupportedError, match="8 placeholders without anything between"):
        found(name, inputs)
    assert ids.shape == mask.shape


def test_a_video_of_video_llava_is_one_set() -> None:
    name = "VideoLlavaForConditionalGeneration"
    for call, rows in (("video", [0]), ("touching videos", [0, 0]), ("video batch", [1])):
        kept = found(name, case(name, call).inputs)
        assert kept == [(row, "video", 3, "video") for row in rows]
    kept = found(name, case(name, "image and video").inputs)
    assert [(row, modality) for row, modality, *_ in kept] == [
        (0, "image"),
        (1, "image"),
        (1, "video"),
    ]


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("MiniCPMV4_6ForConditionalGeneration", "frame"),
        ("MiniMaxM3SparseForConditionalGeneration", "chunk"),
        ("Kimi_K25ForConditionalGeneration", "chunk"),
        ("Qwen2VLForConditionalGeneration", "video"),
    ],
)
def test_unit_of_a_part_of_a_video(name: str, unit: str) -> None:
    kept = found(name, case(name, "video").inputs)
    assert {(modality, what) for _, modality, _, what in kept} == {("video", unit)}


def test_glm_videos_have_image_placeholders() -> None:
    name = "Glm4vForConditionalGeneration"
    call = case(name, "two videos")
    assert found(name, call.inputs) == [(0, "video", 3, "video")] * 2
    image = case(name, "one").inputs
    both = call.inputs | {key: image[key] for key in ("pixel_values", "image_grid_thw")}
    with pytest.raises(UnsupportedError, match="one placeholder for images and videos"):
        prune_inputs(model(name), both, HALF)


def test_beams_of_glm_with_several_images_in_a_sequence() -> None:
    """Its own generate() would mix up several entries of a sequence."""
    name = "Glm4vForConditionalGeneration"
    inputs = case(name, "two").inputs
    with torch.no_grad(), prune(model(name), HALF):
        out = model(name).generate(
            **inputs,
            max_new_tokens=1,
            num_beams=2,
            length_penalty=0.0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        logits = model(name)(**inputs).logits[:, -1]
    best = logits.log_softmax(dim=-1)[0, int(out.sequences[0, -1])]
    torch.testing.assert_close(out.sequences_scores[0], best, rtol=0, atol=1e-4)


def test_videos_compressed_by_the_processor() -> None:
    name = "VideoLlama3ForConditionalGeneration"
    call = case(name, "two videos")
    assert not bool(call.inputs["video_compression_mask"].all())
    assert found(name, call.inputs) == [(0, "video", 3, "video")] * 2
    with torch.no_grad():
        plain = model(name)(**call.inputs).logits
        with prune(model(name), OTPrune(1.0)):
            assert torch.equal(model(name)(**call.inputs).logits, plain)


def test_preserved_is_refused_where_generate_drops_positions() -> None:
    name = "Exaone4_5_ForConditionalGeneration"
    inputs = case(name, "one").inputs
    with (
        torch.no_grad(),
        prune(model(name), HALF, "preserved"),
        pytest.raises(
            UnsupportedError, match=r"generate\(\) drops position_ids.*positions='compact'"
        ),
    ):
        model(name).generate(**inputs, max_new_tokens=1)
    with torch.no_grad(), prune(model(name), HALF, "compact"):
        model(name).generate(**inputs, max_new_tokens=1)
