"""A token's cell is where its pixels come from, whatever the processor does to the image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from otprune import UnsupportedError, visual_tokens
from otprune.asking import grid as grids
from otprune.asking.drawing import Grid, _cells
from otprune.asking.grid import grid_of, grid_of_frame
from otprune.asking.models import Loaded, prompt
from tests.untrained import scene

SIDE, PATCH = 56, 14
TOKEN = 3
SIZES = [(360, 240), (240, 360), (353, 517), (800, 100)]


def grid(processor, inputs, size, tokens, **vision):
    config = SimpleNamespace(
        image_token_id=TOKEN, model_type="llava", vision_config=SimpleNamespace(**vision)
    )
    inputs = {"input_ids": torch.full((1, tokens), TOKEN), **inputs}
    owner = SimpleNamespace(image_processor=processor)
    return grid_of("a model", SimpleNamespace(config=config), owner, inputs, size)


def clip(**options):
    options = {
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
    } | options
    return CLIPImageProcessorPil(**options)


PROCESSORS = {
    "crop": clip(),
    "crop from larger": clip(size={"shortest_edge": 80}),
    "squash": clip(size={"height": SIDE, "width": SIDE}, do_center_crop=False),
    "pad": LlavaImageProcessorPil(
        do_pad=True,
        do_center_crop=False,
        size={"height": SIDE, "width": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
    ),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_cell_holds_the_pixels_of_its_patch(name, size):
    processor = PROCESSORS[name]
    image = scene(*size).point(lambda _: 100)

    def pixels(image):
        return torch.as_tensor(np.asarray(processor(image, return_tensors="pt").pixel_values))

    before = pixels(image)
    found = grid(processor, {"pixel_values": before}, size, 16)
    assert (found.rows, found.columns) == (4, 4)
    seen = 0
    for index, cell in enumerate(_cells(found, size)):
        if min(cell[2] - cell[0], cell[3] - cell[1]) < 12:
            continue  # padding, or a sliver at its edge
        painted = image.copy()
        painted.paste((255, 255, 255), cell)
        changed = (pixels(painted) - before).abs()[0].sum(dim=0)
        y, x = (changed > changed.max() / 2).nonzero().float().mean(dim=0).div(PATCH).int().tolist()
        assert (y, x) == divmod(index, 4)
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize(
    ("size", "region"),
    [
        ((240, 360), (-0.25, 0.0, 1.25, 1.0)),
        ((800, 100), (0.0, -3.5, 1.0, 4.5)),
        ((300, 300), (0.0, 0.0, 1.0, 1.0)),
    ],
)
def test_padding_lies_outside_of_the_image(size, region):
    processor = PROCESSORS["pad"]
    pixels = torch.as_tensor(
        np.asarray(processor(Image.new("RGB", size, "white"), return_tensors="pt").pixel_values)
    )
    found = grid(processor, {"pixel_values": pixels}, size, 16)
    assert found.region == pytest.approx(region)
    if size[0] != size[1]:  # the image's pixels are white, those of the padding are not
        channel = pixels[0, 0]
        rows, columns = (channel > (channel.amin() + channel.amax()) / 2).nonzero().T
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        left, top, right, bottom = region
        wide, high = right - left, bottom - top
        edges = (-left / wide, -top / high, (1 - left) / wide, (1 - top) / high)
        assert [SIDE * edge for edge in edges] == pytest.approx([int(x) for x in seen], abs=1)


def test_the_embedded_model(tiny):
    model, processor = tiny
    loaded = Loaded("it", model, processor, embedded=True)
    image = scene(360, 240).point(lambda value: 90 + value // 4)

    def tokens(image):
        inputs = prompt(loaded, image, "?")
        (image,) = visual_tokens(model, inputs)
        return inputs, image.features

    inputs, before = tokens(image)
    found = grid_of("it", model, processor, inputs, image.size)
    assert found == Grid(12, 12)
    for index in (0, 50, 143):
        painted = image.copy()
        painted.paste((255, 0, 0), _cells(found, image.size)[index])
        assert (tokens(painted)[1] - before).norm(dim=1).argmax() == index


def test_counted_patches_that_are_merged():
    inputs = {"image_grid_thw": torch.tensor([[1, 8, 12]])}
    assert grid(None, inputs, (640, 480), 24, spatial_merge_size=2) == Grid(4, 6)
    inputs = {"image_grid_thw": torch.tensor([[2, 8, 12]])}
    with pytest.raises(UnsupportedError, match="24 tokens for 2 x 8 x 12 patches"):
        grid(None, inputs, (640, 480), 24, spatial_merge_size=2)


def test_images_of_their_own_size_padded_to_the_batch():
    inputs = {"pixel_values": torch.zeros(1, 3, 60, 60), "image_sizes": torch.tensor([[30, 60]])}
    assert grid(None, inputs, (640, 320), 8) == Grid(2, 4)


@pytest.mark.parametrize("shape", [(1, 5, 3, SIDE, SIDE), (5, 3, SIDE, SIDE)])
def test_tiles_have_no_single_grid(shape):
    with pytest.raises(UnsupportedError, match=r"into 5 tiles that overlap.*leave --overlay out"):
        grid(clip(), {"pixel_values": torch.zeros(shape)}, (640, 480), 80)


def test_what_does_not_fit_is_refused_rather_than_drawn_wrongly():
    pixels = {"pixel_values": torch.zeros(1, 3, SIDE, SIDE)}
    with pytest.raises(UnsupportedError, match="17 tokens do not fill a grid"):
        grid(clip(), pixels, (640, 480), 17)
    with pytest.raises(UnsupportedError, match="in its own way"):
        grid(clip(do_center_crop=False), pixels, (640, 480), 16)


def watched(monkeypatch, model_type, **inputs):
    """A model whose processor makes these inputs of a frame; three of its tokens are a frame's."""
    made = {"input_ids": torch.tensor([[0, TOKEN, TOKEN, TOKEN, 0]]), **inputs}
    wording = SimpleNamespace(frame=lambda images, times: made)
    monkeypatch.setattr(grids, "ChatWording", lambda processor, kind: wording)
    config = SimpleNamespace(
        model_type=model_type,
        image_token_id=TOKEN,
        video_token_id=TOKEN,
        vision_config=SimpleNamespace(spatial_merge_size=2),
    )
    return Loaded("a model", SimpleNamespace(config=config), SimpleNamespace(), embedded=False)


def test_frames_that_are_videos_of_one_frame(monkeypatch):
    counts = torch.tensor([[1, 2, 6]])
    loaded = watched(monkeypatch, "qwen2_vl", video_grid_thw=counts)
    assert grid_of_frame(loaded, scene()) == Grid(1, 3)
    loaded = watched(monkeypatch, "qwen2_vl", video_grid_thw=2 * counts)
    with pytest.raises(UnsupportedError, match="3 tokens for 2 x 4 x 12 patches"):
        grid_of_frame(loaded, scene())
    loaded = watched(monkeypatch, "llava_onevision", pixel_values_videos=torch.zeros(1, 1, 3, 6, 6))
    with pytest.raises(UnsupportedError, match=r"another way for frames.*leave --record out"):
        grid_of_frame(loaded, scene())
