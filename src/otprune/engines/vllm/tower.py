"""A selection inside one of vLLM's vision encoders, for one call of it.

As in transformers (`otprune.engines.transformers.tower`): between the attention and the MLP of one
layer the tokens are selected; from there on MLPs and layers get the rows of the kept ones, and give
back a whole grid. For the time of the call some methods of the encoder are replaced; afterwards
nothing is left. A worker runs its encoder in one thread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from otprune.engines.common.arguments import named
from otprune.engines.common.grids import Layout, frames_of, images_of, window_lengths
from otprune.engines.common.short import Short, applied, short_of
from otprune.engines.common.stage import EncoderStage
from otprune.engines.vllm.attention import attend, parts_of
from otprune.engines.vllm.towers import first_layer, side_of, tower_of
from otprune.errors import UnsupportedError
from otprune.measures.cells import Cells

ATTENTION = "MMEncoderAttention"  # the class of every encoder's attention
PACK = "_merge_image_patch_embeddings"  # of models that pack tiles into images
Agree = Callable[[Tensor], Tensor]


@dataclass(eq=False)
class Staged:
    """What an encoder kept.

    sets: the plan of each attention set (image, tile or frame), in the order of its output; of
        blocks, if the model combines tokens behind the encoder.
    origins: for each image that was packed the token of `sets`, counted through all, that each of
        its tokens shows, -1 for rows that the model adds; None for an image whose tokens are mixed.
    packed: number of tokens that were packed.
    """

    sets: list[Cells] = field(default_factory=list)
    origins: list[Tensor | None] = field(default_factory=list)
    packed: int = 0


@contextmanager
def staged(model: Any, stage: EncoderStage, agree: Agree) -> Iterator[Staged]:
    """Inside, a model's vision encoder applies a stage.

    Args:
        model: one of vLLM's, of a class in `FAMILIES`.
        agree: maps this rank's choice to that of rank 0.

    Raises:
        UnsupportedError: a call that cannot be pruned correctly.
    """
    row = tower_of(model.config)
    tower = _at(model, row.path)
    layers = list(_at(tower, row.layers))[first_layer(model.config, stage) :]
    made = Staged()
    call = _Call(stage, tower, row.special, side_of(model.config), made, agree)
    cut, norm, mlp = layers[0], getattr(layers[0], row.norm), layers[0].mlp
    with ExitStack() as stack:
        stack.enter_context(_replaced(tower, "forward", partial(call.tower, tower.forward)))
        stack.enter_context(_replaced(cut, "forward", partial(call.cut_layer, cut.forward)))
        stack.enter_context(_replaced(norm, "forward", partial(call.norm, norm.forward)))
        stack.enter_context(_replaced(mlp, "forward", partial(call.mlp, mlp.forward)))
        for layer in layers[1:]:
            method = partial(call.layer, layer, layer.forward)
            stack.enter_context(_replaced(layer, "forward", method))
        if hasattr(model, PACK):
            method = partial(_pack, model, getattr(model, PACK), made)
            stack.enter_context(_replaced(model, PACK, method))
        yield made


def cells_of_images(made: Staged, sizes: Sequence[tuple[int, int]]) -> list[list[Cells] | None]:
    """For each image the plan of each of its sets in the prompt, None where it is not known.

    Args:
        sizes: for each image the number of its sets in the prompt, and of tokens of a set.
    """
    if made.origins:
        whole = Cells.joined(made.sets)
        return [
            None if origin is None else [whole.shown(origin.to(whole.cell.device))]
            for origin in made.origins
        ]
    if sum(len(one.cell) for one in made.sets) != sum(number * m for number, m in sizes):
        return [None] * len(sizes)  # the model adds tokens, or makes fewer of them
    left = iter(made.sets)

    def joined(m: int) -> Cells:
        some: list[Cells] = []
        while sum(len(one.cell) for one in some) < m:
            some.append(next(left))
        return Cells.joined(some)

    return [[joined(m) for _ in range(number)] for number, m in sizes]


@dataclass(eq=False)
class _Call:
    """The calls of an encoder and its layers, in place of their own methods.

    arguments: of the encoder's running call.
    short: what was kept, None for every token.
    called: which of the norm and the MLP of the layer of the selection have been called.
    parts: where frames are packed, their kept tokens, and those of windows.
    """

    stage: EncoderStage
    encoder: Any
    special: int | None
    side: int
    made: Staged
    agree: Agree
    arguments: dict[str, Any] = field(default_factory=dict)
    short: Short | None = None
    called: list[str] = field(default_factory=list)
    parts: dict[bool, list[Tensor]] = field(default_factory=dict)

    def tower(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.arguments = named(self.encoder, args, kwargs)
        return forward(*args, **kwargs)

    def cut_layer(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The layer of the selection, whose attention is of all tokens."""
        self.short, self.called = None, []
        out = forward(*args, **kwargs)
        if self.called != ["norm", "mlp"]:
            raise UnsupportedError(
                f"a layer of {type(self.encoder).__name__} called "
                f"{' and '.join(self.called) or 'nothing'} where its norm and then its MLP were "
                "expected, so where to select is not known: leave encoder_keep out"
            )
        return out if self.short is None else applied(self._spread, out)

    def norm(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.called.append("norm")
        out = forward(*args, **kwargs)
        # A fused norm adds what the attention gave, and returns the sum besides.
        self._select(out[1] if isinstance(out, tuple) else args[0])
        return out

    def mlp(self, forward: Callable[..., Any], hidden: Tensor) -> Any:
        self.called.append("mlp")
        if self.short is None:
            return forward(hidden)
        return self._give_back(forward(self._take(hidden)))

    def layer(self, layer: Any, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.short is None:
            return forward(*args, **kwargs)
        given = named(layer, args, kwargs)
        name = next(iter(given))  # of the hidden states
        hidden = given.pop(name)
        given = {key: self._shortened(key, value) for key, value in given.items()}
        attended = [0]
        with ExitStack() as stack:
            for module in layer.modules():
                if any(x.__name__ == ATTENTION for x in type(module).__mro__):
                    attention = partial(self._attention, module, layer, attended)
                    stack.enter_context(_replaced(module, "forward", attention))
            out = forward(self._take(hidden), **given)
        if attended != [1]:
            raise UnsupportedError(
                f"{type(layer).__name__} attended {attended[0]} times where once was expected, so "
                "masses would be lost: leave encoder_keep out"
            )
        return applied(self._give_back, out)

    def _select(self, hidden: Tensor) -> None:
        layout, (rows, n) = self._layout(hidden)
        units = [some.to(hidden.device) for some in layout.units]
        flat = hidden.detach().reshape(rows * n, -1)
        sets = [flat[some].mean(dim=1) if some.shape[1] > 1 else flat[some[:, 0]] for some in units]
        sets = [torch.where(tokens.isfinite(), tokens, 0.0) for tokens in sets]
        cells = _agreed(self.stage.method.cells_each(sets), self.agree)
        self.made.sets += cells
        self.short, self.parts = None, {}
        if not all(one.is_whole for one in cells):
            self.short = short_of(layout.special.to(hidden.device), units, cells, rows, n)

    def _layout(self, hidden: Tensor) -> tuple[Layout, tuple[int, int]]:
        """The layout of the running call, and the shape `(rows, n)` of its sequences."""
        if self.special is None:
            layout = frames_of(self._grids, self.side, self._window)
            rows, n = 1, sum(map(math.prod, self._grids))
        else:
            patch = self.encoder.config.patch_size
            size = self.arguments["pixel_values"].shape[-2:]
            down, right = (patch, patch) if isinstance(patch, int) else patch
            height, width = size[0] // down, size[1] // right
            rows, n = len(hidden), self.special + height * width
            layout = images_of(rows, height, width, self.side, self.special)
        if hidden.shape[:-1].numel() != rows * n:
            raise UnsupportedError(
                f"{type(self.encoder).__name__} works on {hidden.shape[:-1].numel()} tokens where "
                f"{rows * n} were expected: leave encoder_keep out"
            )
        return layout, (rows, n)

    @property
    def _grids(self) -> list[tuple[int, int]]:
        """Rows and columns of each packed frame."""
        grids = torch.as_tensor(self.arguments["grid_thw"]).tolist()
        return [(h, w) for t, h, w in grids for _ in range(t)]

    @property
    def _window(self) -> int | None:
        """Side of the encoder's windows, in blocks."""
        size = getattr(self.encoder, "window_size", None)
        return size and int(size) // self.side // int(self.encoder.patch_size)

    def _parts_of(self, layer: Any) -> list[Tensor] | None:
        """What sees only itself in a layer, where frames are packed."""
        if self.special is not None:
            return None
        number = next(i for i, other in enumerate(self.encoder.blocks) if other is layer)
        whole = self._window is None or number in self.encoder.fullatt_block_indexes
        if whole not in self.parts:
            assert self.short is not None
            lengths = [math.prod(grid) for grid in self._grids]
            if not whole:
                side = self.side
                lengths = [
                    length * side**2
                    for h, w in self._grids
                    for length in window_lengths(h // side, w // side, self._window or 0)
                ]
            part = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
            kept = part[self.short.columns[0].cpu()].bincount()
            self.parts[whole] = parts_of(kept[kept > 0])
        return self.parts[whole]

    def _take(self, hidden: Tensor) -> Tensor:
        assert self.short is not None
        if self.special is not None:
            return self.short.take(hidden)
        return self.short.take(hidden.squeeze(1)).unsqueeze(1)  # (n, 1, d)

    def _give_back(self, hidden: Tensor) -> Tensor:
        assert self.short is not None
        if self.special is not None:
            return self.short.give_back(hidden)
        return self.short.give_back(hidden.squeeze(1)).unsqueeze(1)

    def _spread(self, hidden: Tensor) -> Tensor:
        return self._give_back(self._take(hidden))

    def _shortened(self, name: str, value: Any) -> Any:
        """An argument of a layer, for the kept tokens."""
        assert self.short is not None
        if name in ("rotary_pos_emb_cos", "rotary_pos_emb_sin") and value is not None:
            return value.index_select(0, self.short.columns[0].to(value.device))
        if name in ("cu_seqlens", "max_seqlen", "sequence_lengths"):
            return value  # of the attention, which takes `parts` instead
        raise UnsupportedError(
            f"{type(self.encoder).__name__} hands {name} to its layers, and how to shorten it is "
            "not known: leave encoder_keep out"
        )

    def _attention(
        self, module: Any, layer: Any, attended: list[int], *args: Any, **kwargs: Any
    ) -> Tensor:
        """In place of `MMEncoderAttention`, `(R, n, h, d)` or `(R, n, h * d)`."""
        assert self.short is not None
        attended[0] += 1
        given = named(module, args, kwargs, "forward_native")
        query = given["query"]
        query, key, value = (
            x if x.ndim == 4 else x.unflatten(-1, (-1, module.head_size))
            for x in (given["query"], given["key"], given["value"])
        )
        parts = self._parts_of(layer)
        out = attend(query, key, value, self.short.log_mass, module.scale, parts)
        return out if given["query"].ndim == 4 else out.flatten(2)


def _agreed(cells: list[Cells], agree: Agree) -> list[Cells]:
    """The plans of rank 0, which has as many tokens in each, sent in one message."""
    sizes = [size for one in cells for size in (len(one.kept), len(one.cell))]
    flat = agree(torch.cat([x for one in cells for x in (one.kept, one.cell)])).split(sizes)
    return [Cells(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]


def _pack(
    model: Any,
    pack: Callable[..., Any],
    made: Staged,
    image_size: Any,
    patch_embeddings: Tensor,
    **how: Any,
) -> Any:
    """Pack the tiles of one image, and see which of their tokens went where.

    The same method packs the tokens' numbers, with -1 for the rows that it adds. Numbers between
    two tokens are mixtures.
    """
    out = pack(image_size, patch_embeddings, **how)
    function, start = getattr(type(model), PACK), made.packed
    made.packed += patch_embeddings.shape[:-1].numel()
    number = torch.arange(start, made.packed, dtype=torch.float64)
    added = number.new_tensor([-1.0])
    stand_in = SimpleNamespace(config=model.config, image_newline=added)
    if "image_newline" in how:
        how = how | {"image_newline": added}
    of_tiles = number.view(*patch_embeddings.shape[:-1], 1)
    packed = function(stand_in, image_size, of_tiles, **how)[:, 0]
    made.origins.append(packed.long() if torch.equal(packed, packed.round()) else None)
    return out


@contextmanager
def _replaced(module: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    own = vars(module).get(name)
    setattr(module, name, method)
    try:
        yield
    finally:
        delattr(module, name)
        if own is not None:
            setattr(module, name, own)


def _at(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module
