"""Run every class that otprune accepts, small and random; write what held to docs/support.json.

    python -m tools.support_sweep [part of a class name ...]

Checked of each class: keep=1.0 gives the very answer of the unpruned model, and with keep=0.5, in
both position schemes, what enters the language model is what enters it unpruned, less the rows of
the dropped tokens. A class that cannot be built small from its default config, or whose pictures
cannot be made up, is noted with the reason.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as NAMES,
)

from otprune import DivPrune, OTPrune, prune, prune_inputs
from otprune.engines.transformers import support
from otprune.engines.transformers.families import family, placeholder
from tools.small_models import small

RECORD = Path(__file__).parent.parent / "docs" / "support.json"
SECONDS = 120  # of one class
TEXT = 201  # an id that no config gives a meaning


class NotRunError(Exception):
    """The class could not be run here: why, in a few words, and the error that was met."""

    def __init__(self, why: str, detail: object = "") -> None:
        super().__init__(why)
        self.why = why
        self.detail = " ".join(str(detail).split())[:200]


def classes() -> list[str]:
    """Class names of the installed mapping."""
    names = [[v] if isinstance(v, str) else list(v) for v in NAMES.values()]
    return sorted({name for group in names for name in group})


def pixels(model: Any) -> Iterator[dict[str, Tensor]]:
    """Made-up pictures in every layout that the arguments of get_image_features allow."""
    takes = set(inspect.signature(model.base_model.get_image_features).parameters)
    vision = getattr(model.config, "vision_config", model.config)

    def setting(name: str, default: int) -> int:
        value = getattr(vision, name, None) or getattr(model.config, name, None) or default
        return int(value[0] if isinstance(value, (list, tuple)) else value)

    patch, merge = setting("patch_size", 14), setting("spatial_merge_size", 2)
    frames = setting("temporal_patch_size", 1)
    channels = setting("in_channels", 0) or setting("num_channels", 3)
    side = setting("image_size", 4 * patch)
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if "image_grid_thw" in takes:
        half = max(1, merge // 2)
        grid = torch.tensor([[1, 4, 4], [1, 4, 8], [1, 8, 4]]) * torch.tensor([1, half, half])
        n = int(grid.prod(-1).sum())
        more = {"image_grid_thw": grid}
        if "image_merge_sizes" in takes:
            more["image_merge_sizes"] = torch.tensor([2, 2, 2])
        yield {"pixel_values": noise(n, channels * frames * patch * patch), **more}
        yield {"pixel_values": noise(n, channels * patch * patch), **more}
        yield {"pixel_values": noise(n, channels * 2 * patch * patch), **more}
        yield {"pixel_values": noise(n, channels, patch, patch), **more}
        yield {"pixel_values": noise(n, channels, frames, patch, patch), **more}
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
        sizes = torch.tensor([[8, 8], [8, 16], [16, 8]])
        strip = noise(1, 3, patch, patch * int(sizes.prod(-1).sum()))
        yield {"pixel_values": strip, "target_sizes": sizes}
    if "image_grid_hw" in takes:
        grid = torch.tensor([[4, 4], [4, 8], [8, 4]])
        n = int(grid.prod(-1).sum())
        yield {"pixel_values": noise(n, 3 * patch * patch), "image_grid_hw": grid}
    if "image_sizes" in takes:
        square, wide = torch.tensor([[side, side]] * 3), torch.tensor([[side, 2 * side]] * 3)
        yield {"pixel_values": noise(3, 3, side, side), "image_sizes": square}
        tiles = {"pixel_values": noise(3, 3, 3, side, side), "image_sizes": wide}
        yield tiles
        yield tiles | {"batch_num_images": torch.tensor([1, 1, 1])}
    for shape in ((3, 3), (1, 3, 3), (3, 1, 3)):
        values = noise(*shape, side, side)
        yield {"pixel_values": values}
        if "pixel_attention_mask" in takes:
            mask = torch.ones(*shape[:-1], side, side, dtype=torch.bool)
            yield {"pixel_values": values, "pixel_attention_mask": mask}
            yield {"pixel_values": values, "pixel_attention_mask": mask[..., 0, 0]}
    yield {"pixel_values": noise(3, 3, 2 * side, 2 * side)}
    yield {"pixel_values": noise(3, 16, channels * patch * patch)}
    if "high_res_pixel_values" in takes:
        yield {
            "pixel_values": noise(3, 3, side, side),
            "high_res_pixel_values": noise(3, 3, 1024, 1024),
        }


def encoded(model: Any) -> tuple[dict[str, Tensor], list[int]]:
    """Pictures that the encoder takes, and the tokens of each entry of its output."""
    failed = []
    for candidate in pixels(model):
        try:
            output = model.base_model.get_image_features(**candidate, return_dict=True)
            return candidate, entries(output[family(model.config).features])
        except Exception as error:
            failed.append(f"{type(error).__name__}: {error}")
    telling = [why for why in failed if not why.startswith("TypeError")] or failed
    raise NotRunError("no picture could be made up for it", telling[0])


def entries(features: Any) -> list[int]:
    """Tokens of each entry of an encoder's output."""
    if isinstance(features, Tensor) and features.ndim < 3:
        return [len(features)]
    return [x.numel() // x.shape[-1] for x in features]


def prompt(model: Any, lengths: list[int]) -> dict[str, Tensor]:
    """One row for the first entry, one for the others, left padded; one row if there are not 3."""
    token = placeholder(model.config, "image")
    groups = [lengths[:1], lengths[1:]] if len(lengths) == 3 else [lengths]
    rows = []
    for b, group in enumerate(groups):
        row = [TEXT, TEXT + 1]
        for n in group:
            row += [TEXT + 2, *[token] * n, TEXT + 3]
        rows.append([*row, TEXT + 4, TEXT + 5][: 6 + len(row) - b])
    length = max(map(len, rows))
    ids = torch.tensor([[0] * (length - len(row)) + row for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    takes = inspect.signature(model.forward).parameters
    for name in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if name in takes:
            inputs[name] = (ids == token).long()
    return inputs


def entering(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """What `model(**inputs)` hands to its language model."""
    seen: dict[str, Any] = {}
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        hook.remove()
    if not isinstance(seen.get("inputs_embeds"), Tensor):
        raise NotRunError("its language model is not handed inputs_embeds by name", type(decoder))
    return seen


def check(model: Any) -> None:
    """Raise NotRunError, or AssertionError with what did not hold."""
    pictures, lengths = encoded(model)
    inputs = {**prompt(model, lengths), **pictures}
    settings: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
    try:
        plain = model.generate(**inputs, **settings)
        logits = model(**inputs).logits
    except Exception as error:
        raise NotRunError("made small, it does not run unpruned", repr(error)) from error
    with prune(model, OTPrune(keep=1.0)):
        assert torch.equal(model.generate(**inputs, **settings), plain), "keep=1.0: other answer"
        assert torch.equal(model(**inputs).logits, logits), "keep=1.0: other logits"

    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    full = entering(model, inputs | {"position_ids": _generated_positions(model, inputs)})
    for scheme in ("preserved", "compact"):
        selector = DivPrune(keep=0.5)
        with prune(model, selector, scheme) as run:
            model.generate(**inputs, **settings)
            items = run.last or []
        short = prune_inputs(model, inputs, selector, scheme)
        cut = entering(model, short)
        keep = mask.clone()
        at = [torch.nonzero(row)[:, 0] for row in ids == placeholder(model.config, "image")]
        used = [0] * len(ids)
        for item in items:
            columns = at[item.row][used[item.row] :][: item.before]
            keep[item.row, columns] = False
            keep[item.row, columns[item.indices]] = True
            used[item.row] += item.before
        assert used == [len(columns) for columns in at], "not every placeholder is in a picture"
        assert int(keep.sum()) < int(mask.sum()), "nothing was dropped"
        for b in range(len(ids)):
            n = int(keep[b].sum())
            embeds = full["inputs_embeds"][b][keep[b]], cut["inputs_embeds"][b, -n:]
            assert torch.equal(*embeds), f"{scheme}: other embeddings"
            a, c = full.get("position_ids"), cut.get("position_ids")
            if a is None or c is None:
                continue
            a, c = (p[-3:, b] if p.ndim == 3 else p[b][None] for p in (a, c))
            wanted = torch.arange(n).expand(len(a), n) if scheme == "compact" else a[:, keep[b]]
            same = torch.equal(c[:, -n:] - c[:, -n, None], wanted - wanted[:, :1])
            assert same, f"{scheme}: other positions"


def _generated_positions(model: Any, inputs: dict[str, Any]) -> Tensor:
    others = {k: v for k, v in inputs.items() if k != "input_ids"}
    return model._prepare_position_ids_for_generation(inputs["input_ids"], others)


def outcome(name: str) -> dict[str, str]:
    """`outcome` of one class, "ran", "not run" or "wrong", with `why` and `detail`."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(SECONDS)
    try:
        try:
            model = small(getattr(transformers, name))
        except ImportError as error:
            missing = re.search(r"requires the (\w+) library", str(error))
            raise NotRunError(f"needs {missing[1] if missing else 'more'}", error) from error
        except NotRunError:
            raise
        except Exception as error:
            raise NotRunError("its default config does not shrink", repr(error)) from error
        with torch.no_grad():
            check(model)
    except NotRunError as error:
        return {"outcome": "not run", "why": error.why, "detail": error.detail}
    except Exception as error:
        return {"outcome": "wrong", "why": repr(error)}
    finally:
        signal.alarm(0)
    return {"outcome": "ran"}


def _too_long(*_: object) -> None:
    raise NotRunError(f"took longer than {SECONDS} seconds")


def main(parts: list[str]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    record = json.loads(RECORD.read_text()) if RECORD.exists() and parts else {}
    found = record.get("classes", {})
    for name in classes():
        if parts and not any(part.lower() in name.lower() for part in parts):
            continue
        if not support(getattr(transformers, name))[0]:
            found.pop(name, None)
            continue
        found[name] = outcome(name)
        print(f"{name:48s} {found[name]['outcome']:8s} {found[name].get('why', '')}", flush=True)
    record = {"transformers": transformers.__version__, "classes": dict(sorted(found.items()))}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    main(sys.argv[1:])
