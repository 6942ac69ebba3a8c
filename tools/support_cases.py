"""Made-up calls for any class: its pixels, and prompts laid out as its processor writes them.

A case is a call and what must be found in it: the columns of every image and video, in order.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.families import family, placeholder

# Text: ids that no config gives a meaning.
TEXT = 201
START, END, NEWLINE, FAKE, OVERVIEW, GAP, STAMP = range(210, 217)
NAMES = range(220, 230)

# Families whose processor writes text between the frames of a video.
FRAMES_APART = set(
    "cohere_compass cosmos3_edge cosmos3_omni gemma4 gemma4_unified glm46v glm4v glm4v_moe glm_ocr "
    "glm5_next lfm3_vl minimax_m3_vl muse_glimmer muse_spark qwen3_vl qwen3_vl_moe qwen3_5 "
    "qwen3_5_moe qwen4_exp video_llama_3".split()
)
# Families that tell the tokens of a video from those of an image by the marks around the video.
SPANS = {"glm5_next"}
Found = tuple[int, str, list[int]]  # row, modality, columns


class NotRunError(Exception):
    """The class could not be run here: why, in a few words, and the error that was met."""

    def __init__(self, why: str, detail: object = "") -> None:
        super().__init__(why)
        self.why = why
        self.detail = " ".join(str(detail).split())[:200]


@dataclass
class Case:
    """One call.

    name: what is special about it.
    inputs: arguments of the model.
    found: the images and videos in it.
    touching: nothing stands between two images; a refusal is an answer, too.
    """

    name: str
    inputs: dict[str, Any]
    found: list[Found]
    touching: bool = False


@dataclass
class Pixels:
    """Three images or videos for an encoder: the arguments, and the tokens of each entry.

    each: entries of one image or video.
    padded: the arguments are `(rows, most images of a row, ...)`.
    """

    arguments: dict[str, Tensor]
    entries: list[int]
    each: int = 1
    padded: bool = False

    def take(self, rows: list[list[int]]) -> dict[str, Tensor]:
        """The arguments of these images or videos, row by row."""
        order = [i for row in rows for i in row]
        if self.padded:
            most = max(map(len, rows))
            return {
                name: torch.stack(
                    [
                        torch.cat([x[0, row], x.new_zeros(most - len(row), *x.shape[2:])])
                        for row in rows
                    ]
                )
                for name, x in self.arguments.items()
            }
        grid = next((x for name, x in self.arguments.items() if "grid" in name), None)
        sizes = next((x for name, x in self.arguments.items() if "target_sizes" in name), None)
        frames = self.arguments.get("num_frames_per_video")
        taken = {}
        for name, x in self.arguments.items():
            if grid is not None and "pixel_values" in name:
                taken[name] = _parts(x, grid.prod(-1), order, 0)
            elif sizes is not None and "pixel_values" in name:
                taken[name] = _parts(x, sizes.prod(-1) * x.shape[2], order, -1)
            elif frames is not None and name != "num_frames_per_video":
                taken[name] = _parts(x, frames, order, 0)
            else:
                taken[name] = x[order]
        if "video_merge_sizes" in taken:  # the first token of each video is left out
            masks = [torch.arange(self.entries[i] + 1) > 0 for i in order]
            taken["video_compression_mask"] = torch.cat(masks)
        return taken


def _parts(x: Tensor, lengths: Tensor, order: list[int], dim: int) -> Tensor:
    parts = x.split([int(n) for n in lengths], dim=dim)
    return torch.cat([parts[i] for i in order], dim=dim)


def images(model: Any) -> Pixels:
    """Three made-up entries that get_image_features takes."""
    return _first_that_runs(model, "image", _image_pixels(model))


def videos(model: Any) -> Pixels:
    """Three made-up entries that get_video_features takes."""
    return _first_that_runs(model, "video", _video_pixels(model))


def _first_that_runs(model: Any, modality: str, candidates: Iterator[dict[str, Tensor]]) -> Pixels:
    failed = []
    encoder = getattr(model.base_model, f"get_{modality}_features")
    for candidate in candidates:
        try:
            output = encoder(**candidate, return_dict=True)
            tokens = output[family(model.config).features]
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")
            continue
        if isinstance(tokens, Tensor) and tokens.ndim < 3:
            counts = [len(tokens)]
        else:
            counts = [x.numel() // x.shape[-1] for x in tokens]
        pixels = candidate.get("pixel_values")
        padded = pixels is not None and len(pixels) == 1 and pixels.ndim == 5  # a row's images
        if padded and len(counts) == 1:
            counts = [counts[0] // 3] * 3
        if len(counts) % 3:
            failed.append(f"{len(counts)} entries of three")
            continue
        if "video_merge_sizes" in candidate:
            counts = [n - 1 for n in counts]
        return Pixels(candidate, counts, len(counts) // 3, padded)
    telling = [why for why in failed if not why.startswith("TypeError")] or failed
    raise NotRunError(f"no {modality} could be made up for it", telling[0] if telling else "")


class _Sizes:
    """The sizes that a vision config names, and noise."""

    def __init__(self, model: Any) -> None:
        self._configs = (getattr(model.config, "vision_config", model.config), model.config)
        self._generator = torch.Generator().manual_seed(0)
        self.patch = self.of("patch_size", 14)
        self.merge = self.of("spatial_merge_size", 2)
        self.frames = self.of("temporal_patch_size", 1)
        self.channels = self.of("in_channels", 0) or self.of("num_channels", 3)
        self.side = self.of("image_size", 4 * self.patch)

    def of(self, name: str, default: int) -> int:
        values = (getattr(config, name, None) for config in self._configs)
        value = next((value for value in values if value), default)
        return int(value[0] if isinstance(value, (list, tuple)) else value)

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator)

    def patches(self, n: int) -> Iterator[Tensor]:
        patch, channels = self.patch, self.channels
        yield self.noise(n, channels * self.frames * patch * patch)
        yield self.noise(n, channels * patch * patch)
        yield self.noise(n, channels * 2 * patch * patch)
        yield self.noise(n, channels, patch, patch)
        yield self.noise(n, channels, self.frames, patch, patch)


def _image_pixels(model: Any) -> Iterator[dict[str, Tensor]]:
    """Made-up images in every layout that the arguments of get_image_features allow."""
    takes = set(inspect.signature(model.base_model.get_image_features).parameters)
    sizes = _Sizes(model)
    noise, patch, side = sizes.noise, sizes.patch, sizes.side
    if "image_grid_thw" in takes:
        half = max(1, sizes.merge // 2)
        grid = torch.tensor([[1, 4, 4], [1, 4, 8], [1, 8, 4]]) * torch.tensor([1, half, half])
        more = {"image_grid_thw": grid}
        if "image_merge_sizes" in takes:
            more["image_merge_sizes"] = torch.tensor([2, 2, 2])
        for values in sizes.patches(int(grid.prod(-1).sum())):
            yield {"pixel_values": values, **more}
        if "inkling2" in model.config.model_type:  # a token a patch, channels last
            n, size = int(grid.prod(-1).sum()), sizes.merge * patch
            yield {"pixel_values": noise(n, size, size, sizes.channels), **more}
    if "image_position_ids" in takes:  # patches with their columns and rows
        at = torch.cartesian_prod(torch.arange(6), torch.arange(6)).expand(3, -1, -1)
        for size in (patch, 3 * patch):
            yield {"pixel_values": noise(3, 36, 3 * size * size), "image_position_ids": at}
    if "spatial_shapes" in takes:
        yield {
            "pixel_values": noise(3, 16, 3 * patch * patch),
            "spatial_shapes": torch.tensor([[4, 4]] * 3),
            "pixel_attention_mask": torch.ones(3, 16, dtype=torch.long),
        }
    if "target_sizes" in takes:  # all patches in one strip
        shapes = torch.tensor([[8, 8], [8, 16], [16, 8]])
        strip = noise(1, 3, patch, patch * int(shapes.prod(-1).sum()))
        yield {"pixel_values": strip, "target_sizes": shapes}
    if "image_grid_hw" in takes:
        grid = torch.tensor([[4, 4], [4, 8], [8, 4]])
        n = int(grid.prod(-1).sum())
        yield {"pixel_values": noise(n, 3 * patch * patch), "image_grid_hw": grid}
    if "image_sizes" in takes:
        square, wide = torch.tensor([[side, side]] * 3), torch.tensor([[side, 2 * side]] * 3)
        yield {"pixel_values": noise(3, 3, side, side), "image_sizes": square}
        yield {"pixel_values": noise(3, 3, 3, side, side), "image_sizes": wide}
    if model.config.model_type == "fuyu":  # its processor's: the patches of all images
        yield {"pixel_values": noise(3, 16, 3 * patch * patch)}
    shapes = [(3, 3), (1, 3, 3), (3, 1, 3)]
    for shape in shapes[1:2] if "pixel_attention_mask" in takes else shapes:
        values = noise(*shape, side, side)
        yield {"pixel_values": values}
        if "pixel_attention_mask" in takes:
            mask = torch.ones(*shape[:-1], side, side, dtype=torch.bool)
            yield {"pixel_values": values, "pixel_attention_mask": mask}
            yield {"pixel_values": values, "pixel_attention_mask": mask[..., 0, 0]}
    yield {"pixel_values": noise(3, 3, 2 * side, 2 * side)}
    yield {"pixel_values": noise(3, 16, sizes.channels * patch * patch)}
    if "high_res_pixel_values" in takes:
        yield {
            "pixel_values": noise(3, 3, side, side),
            "high_res_pixel_values": noise(3, 3, 1024, 1024),
        }


def _video_pixels(model: Any) -> Iterator[dict[str, Tensor]]:
    """Made-up videos in every layout that the arguments of get_video_features allow."""
    takes = set(inspect.signature(model.base_model.get_video_features).parameters)
    sizes = _Sizes(model)
    noise, patch, side = sizes.noise, sizes.patch, sizes.side
    if "video_grid_thw" in takes:
        half = max(1, sizes.merge // 2)
        grid = torch.tensor([[2, 4, 4], [2, 4, 8], [4, 4, 4]]) * torch.tensor([1, half, half])
        more = {"video_grid_thw": grid}
        if "video_merge_sizes" in takes:
            more["video_merge_sizes"] = torch.tensor([2, 2, 2])
        for values in sizes.patches(int(grid.prod(-1).sum())):
            yield {"pixel_values_videos": values, **more}
    if "video_position_ids" in takes:  # frames of patches with their columns and rows
        at = torch.cartesian_prod(torch.arange(6), torch.arange(6)).expand(6, -1, -1)
        for size in (patch, 3 * patch):
            yield {
                "pixel_values_videos": noise(6, 36, 3 * size * size),
                "video_position_ids": at,
                "num_frames_per_video": torch.tensor([2, 1, 3]),
            }
    if "target_sizes_videos" in takes:
        shapes = torch.tensor([[8, 8], [8, 16], [16, 8]])
        strip = noise(1, 3, patch, patch * int(shapes.prod(-1).sum()))
        yield {"pixel_values_videos": strip, "target_sizes_videos": shapes}
    yield {"pixel_values_videos": noise(3, 2, 3, side, side)}
    yield {"pixel_values_videos": noise(3, 4, 3, side, side)}


# -- prompts ---------------------------------------------------------------------------------------


class _Row:
    """One row of a prompt while it is built."""

    def __init__(self, number: int) -> None:
        self.ids: list[int] = []
        self.found: list[tuple[str, list[int]]] = []
        self.kinds: list[int] = []  # 0 text, 1 image, 2 video
        self._number = number

    def text(self, *ids: int) -> None:
        self.ids += ids
        self.kinds += [0] * len(ids)

    def begin(self, modality: str) -> None:
        self.found.append((modality, []))

    def tokens(self, token: int, n: int) -> None:
        modality, columns = self.found[-1]
        columns += range(len(self.ids), len(self.ids) + n)
        self.ids += [token] * n
        self.kinds += [1 if modality == "image" else 2] * n


def _image(row: _Row, kind: str, token: int, tiles: list[int]) -> None:
    """One image of these tiles, as the processor of its kind of family writes it."""
    row.begin("image")
    *parts, last = tiles
    if kind == "fuyu":  # lines of patches
        for _ in range(4):
            row.tokens(token, last // 4)
            row.text(NEWLINE)
        row.text(END)
    elif kind == "closed":
        for i, n in enumerate(parts):
            row.text(FAKE, NAMES[i])
            row.tokens(token, n)
        row.text(FAKE, OVERVIEW)
        row.tokens(token, last)
        row.text(FAKE)
    elif kind == "opened":
        for i, n in enumerate(tiles):
            row.text(FAKE, NAMES[min(i, 1)])
            row.tokens(token, n)
            row.text(NEWLINE)
    elif kind == "ended":
        row.text(START)
        for i, n in enumerate(parts):
            row.text(NAMES[i])
            row.tokens(token, n)
        if parts:
            row.text(OVERVIEW)
        row.tokens(token, last)
        row.text(END)
    elif kind == "joined":
        row.text(START)
        for n in tiles:
            row.tokens(token, n)
            row.text(GAP)
        row.text(END)
    elif kind == "quarters":  # the mark that closes an image opens the next
        if not row.ids or row.ids[-1] != FAKE:
            row.text(FAKE)
        row.tokens(token, last)
        row.text(FAKE)
    elif kind == "run":
        row.text(START)
        row.tokens(token, sum(tiles))
        row.text(END)
    else:
        row.tokens(token, sum(tiles))


def _video(row: _Row, config: Any, token: int, entries: list[int], frames: int) -> None:
    """One video; each part that the family takes for one, where it takes parts."""
    kind = family(config)
    if kind.video == "frame":
        for n in entries:
            row.begin("video")
            row.text(START)
            row.tokens(token, n)
            row.text(END)
        return
    row.begin("video")
    n = sum(entries)
    spans = config.model_type in SPANS
    if spans:
        row.text(config.video_start_token_id)
    if config.model_type in FRAMES_APART and frames:
        for i in range(frames):
            row.text(STAMP, START)
            row.tokens(token, (n + i) // frames)
            row.text(END)
    else:
        row.text(START)
        row.tokens(token, n)
        row.text(END)
    if spans:
        row.text(config.video_end_token_id)


# Of one row: modality, and the images or videos of the pixels that are one (several: tiles of one).
Content = list[tuple[str, list[int]]]


def _case(
    model: Any,
    name: str,
    rows: list[Content],
    pixels: dict[str, Pixels],
    touching: bool = False,
) -> Case:
    """Rows of the batch, left padded, that hold these entries of the images and videos."""
    made = [_Row(b) for b in range(len(rows))]
    config = model.config
    for b, (row, content) in enumerate(zip(made, rows, strict=True)):
        row.text(TEXT, TEXT + 1, *[TEXT + 2] * b)
        for modality, members in content:
            given, token = pixels[modality], placeholder(config, modality)
            counts = [n for i in members for n in given.entries[i * given.each :][: given.each]]
            if not touching:
                row.text(TEXT + 3, TEXT + 4)
            if modality == "image":
                kind = "fuyu" if config.model_type == "fuyu" else family(config).grouping
                _image(row, kind, token, counts)
            else:
                grid = given.arguments.get("video_grid_thw")
                frames = given.arguments.get("num_frames_per_video")
                n = int(grid[members[0], 0]) if grid is not None else 0
                n = int(frames[members[0]]) if frames is not None else n
                _video(row, config, token, counts, n)
        row.text(TEXT + 5, TEXT + 6)
    length = max(len(row.ids) for row in made)
    left = [length - len(row.ids) for row in made]
    ids = torch.tensor([[0] * n + row.ids for n, row in zip(left, made, strict=True)])
    kinds = torch.tensor([[0] * n + row.kinds for n, row in zip(left, made, strict=True)])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    takes = inspect.signature(model.forward).parameters
    if "mm_token_type_ids" in takes:
        inputs["mm_token_type_ids"] = kinds
    if "moe_mm_token_type_ids" in takes:
        inputs["moe_mm_token_type_ids"] = (kinds > 0).long()
    if "token_type_ids" in takes:
        bidirectional = model.config.model_type != "paligemma"  # there the type of what follows
        inputs["token_type_ids"] = (kinds == 1).long() * bidirectional
    for modality, given in pixels.items():
        of_rows = [
            [i for kind, members in content if kind == modality for i in members]
            for content in rows
        ]
        if any(of_rows):
            inputs |= given.take(of_rows)
    if "batch_num_images" in takes and "image_sizes" in inputs:
        each = [len([1 for kind, _ in content if kind == "image"]) for content in rows]
        inputs["batch_num_images"] = torch.tensor(each)
    found = [
        (b, modality, [n + column for column in columns])
        for b, (n, row) in enumerate(zip(left, made, strict=True))
        for modality, columns in row.found
    ]
    return Case(name, inputs, found, touching)


def cases(model: Any) -> Iterator[Case]:
    """Calls with images: alone, several, touching, in a batch with a row that has none."""
    given = {"image": images(model)}
    grouping = family(model.config).grouping
    one, two, three = ("image", [0]), ("image", [1]), ("image", [2])
    yield _case(model, "one", [[one]], given)
    yield _case(model, "two", [[one, two]], given)
    yield _case(model, "batch", [[one], [], [two, three]], given)
    yield _case(model, "touching", [[one, two]], given, touching=True)
    if model.config.model_type != "fuyu" and grouping in (
        "closed",
        "opened",
        "ended",
        "joined",
        "run",
    ):
        yield _case(model, "tiles", [[("image", [0, 1, 2])]], given)


def video_cases(model: Any) -> Iterator[Case]:
    """Calls with videos: alone, two, touching, a batch where only one row has a video."""
    given = {"video": videos(model)}
    one, two, three = (("video", [i]) for i in range(3))
    yield _case(model, "video", [[one]], given)
    yield _case(model, "two videos", [[two, three]], given)
    yield _case(model, "touching videos", [[one, two]], given, touching=True)
    yield _case(model, "video batch", [[], [one]], given)
    if placeholder(model.config, "image") != placeholder(model.config, "video"):
        image = ("image", [0])
        both = given | {"image": images(model)}
        yield _case(model, "image and video", [[image], [image, one]], both)
