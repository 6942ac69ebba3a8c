"""Vision-language-action policies: the prefix of images and text is pruned, the actions are not.

PI0 (pi-zero, arXiv 2410.24164) encodes its cameras and its instruction once, as a prompt of
PaliGemma in which every token sees every other. Its action expert attends to the keys and values of
that prefix in each step of denoising. A pruned call has a shorter prefix, and all that is derived
from it, masks and positions, is that of the shorter one: with "compact" positions what the policy
itself does with a prompt of that length; with "preserved" ones every token, the robot's state and
the actions included, stands where it would stand unpruned. Masses apply in the prefix and in the
expert. An absent camera has no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from otprune.engines.transformers.attention import (
    Decoder,
    KeyBias,
    apply_key_bias,
    check_attention,
)
from otprune.engines.transformers.encoded import check_no_placeholders, has_images
from otprune.engines.transformers.following import Following
from otprune.engines.transformers.heads import inputs_of_base
from otprune.engines.transformers.inputs import Shrunk, embedded, shrink
from otprune.engines.transformers.memory import Memory, cache_of, length_of, recall, remember
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Settings
from otprune.engines.transformers.versions import check_tested
from otprune.errors import OTPruneError, UnsupportedError

_FOLLOWING = Following("otprune_policy_follower")

Function = Callable[..., Any]


def check_settings(model: Any, settings: Settings) -> None:
    """Raise UnsupportedError for settings that do not reach the action expert of a policy."""
    name = type(model).__name__
    if settings.has_mass:
        check_attention(model.base_model.dit)
    if settings.has_distance and settings.distance is True:
        raise UnsupportedError(
            f"distance with {name}: it is not known how far actions stand from the prefix that "
            "they attend to: use distance='auto', which goes without it here, or False"
        )
    if settings.layers is not None:
        raise UnsupportedError(
            f"layers= with {name}: its action expert attends to the same tokens in every layer: "
            "leave layers out"
        )
    if settings.logits == "full":
        raise UnsupportedError(
            f"logits='full' with {name}: its logits are actions, which have no place in the "
            "prompt: leave it out"
        )


def has_prefix(inputs: Mapping[str, Any]) -> bool:
    """Whether a call brings images that the policy encodes."""
    return inputs.get("pixel_values") is not None and cache_of(inputs) is None


@torch.no_grad()
def sample_actions(
    model: Any, function: Function, arguments: dict[str, Any], settings: Settings, run: Run
) -> Any:
    """sample_actions() of a policy with a pruned prefix."""
    return forward(model, function, arguments, settings, run)


def forward(
    model: Any, function: Function, arguments: dict[str, Any], settings: Settings, run: Run
) -> Any:
    """forward() of a policy with a pruned prefix, or a denoising step on the cache of one."""
    outer = _FOLLOWING.follower.get()
    if isinstance(outer, _Prefix) and outer.model is model:  # a denoising step of sample_actions()
        return function(**arguments)
    if has_prefix(arguments):
        check_tested(settings.untested_transformers)  # settings may have been unpickled
        check_settings(model, settings)
        if not has_images(inputs_of_base(model, arguments)):  # no camera is there
            check_no_placeholders(model, arguments)
            run.start()
            return function(**arguments)
        shrunk = shrink(model, arguments, "right", replace(settings, distance=False))
        _check_rows(shrunk, arguments["pixel_attention_mask"])
        run.record(shrunk)
        if shrunk.memory is None:
            return function(**arguments)
        prefix = _prefix(model, arguments, shrunk, shrunk.memory)
        ids, mask = shrunk.inputs["input_ids"], shrunk.inputs["attention_mask"]
        short = arguments | {"input_ids": ids, "attention_mask": mask, "position_ids": None}
        if arguments.get("position_ids") is None:
            del short["position_ids"]
        out = prefix.run(function, short)
        for value in out if isinstance(out, tuple) else (cache_of(out),):
            if hasattr(value, "get_seq_length"):
                remember(value, prefix.memory)
        return out
    memory = recall(cache_of(arguments))
    if memory is None:
        if cache_of(arguments) is None:
            run.start()
        return function(**arguments)
    mask = _mask_of_step(memory, arguments)
    return _Prefix(model, memory).run(function, arguments | {"attention_mask": mask})


def _check_rows(shrunk: Shrunk, present: Tensor) -> None:
    rows = [item.row for item in shrunk.items]
    if rows != present.bool().nonzero()[:, 0].tolist():
        raise OTPruneError(
            f"the prompts have placeholders for the images of sequences {rows}, and "
            f"pixel_attention_mask has {present.bool().sum(dim=1).tolist()} cameras a sequence: "
            "pass what the processor returned, unabridged"
        )


@dataclass(frozen=True)
class _Prefix:
    """A pruned prefix; the follower of the policy's parts during a call.

    memory: how it was pruned. Its `last` is the position before that of the robot's state.
    embeds: `(B, n, d)`, its embeddings; None once they are in a cache.
    positions: `(B, n)`, as the vision-language model gets them.
    """

    model: Any
    memory: Memory
    embeds: Tensor | None = None
    positions: Tensor | None = None

    def run(self, function: Function, arguments: dict[str, Any]) -> Any:
        """Run the policy's own method on it."""
        base = self.model.base_model
        methods = [(base, "embed_prefix"), (base.vlm, "forward"), (base.dit, "forward")]
        with _FOLLOWING.by(self, self.model, methods):
            return function(**arguments)

    def call(
        self,
        module: Any,
        name: str,
        function: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """See `following.Follower`."""
        base = self.model.base_model
        if module is base:
            return self.embeds
        if module is base.vlm:
            decoder, positions = base.vlm.get_decoder(), self.positions
        else:
            decoder, last = base.dit, self.memory.last
            steps = torch.arange(1, kwargs["inputs_embeds"].shape[1] + 1, device=last.device)
            positions = last + steps
        kwargs = kwargs | {"position_ids": positions}
        if self.memory.key_bias is None:
            return function(*args, **kwargs)
        mass = KeyBias(Decoder(decoder), self.memory.key_bias).for_call(0, positions)
        with apply_key_bias(mass):
            out = function(*args, **kwargs)
        mass.check_used()
        return out


def _prefix(model: Any, given: Mapping[str, Any], shrunk: Shrunk, memory: Memory) -> _Prefix:
    """The pruned prefix of a call with images."""
    ids, embeds = shrunk.inputs["input_ids"], embedded(model.base_model.vlm, shrunk.inputs)
    positions, mask = memory.positions, given.get("attention_mask")
    if mask is None and given.get("position_ids") is None:
        positions = positions + 1  # as PaliGemma counts without a mask
    # What follows is placed by the number of tokens in front, whatever positions these have.
    whole = memory.ids.new_full((len(ids), 1), memory.ids.shape[1])
    if mask is not None:
        whole = mask.long().sum(dim=1, keepdim=True)
    number = memory.layout.valid.sum(dim=1, keepdim=True) if memory.compact else whole
    return _Prefix(model, replace(memory, last=number - 1), embeds, positions)


def _mask_of_step(memory: Memory, arguments: Mapping[str, Any]) -> Tensor:
    """The mask `(B, n)` over a pruned prefix for a denoising step on its cache."""
    n, mask = memory.layout.columns.shape[1], arguments.get("attention_mask")
    past = length_of(cache_of(arguments))
    if past != n:
        raise UnsupportedError(
            f"the cache holds {past} tokens and its pruned prefix has {n}: crop what an earlier "
            "step left behind, cache.crop(n)"
        )
    if mask is None:
        return memory.layout.valid.long()
    if mask.shape[1] == memory.layout.width:
        return memory.layout.take(mask, 0)
    if mask.shape[1] != n:
        raise OTPruneError(
            f"attention_mask has {mask.shape[1]} columns: expected the {memory.layout.width} of "
            f"the full prefix, or the {n} of the pruned one"
        )
    given: Tensor = mask
    return given
