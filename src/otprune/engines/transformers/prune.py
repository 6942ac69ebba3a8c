"""The ways to switch pruning on: in a with block, for all threads, or for one call."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from transformers import PreTrainedModel

from otprune.engines.common.layer_stage import LayerStage
from otprune.engines.common.stage import EncoderStage
from otprune.engines.transformers import entry
from otprune.engines.transformers.attention import check_attention
from otprune.engines.transformers.deep import check_layers
from otprune.engines.transformers.families import check
from otprune.engines.transformers.heads import base_of, check_rows, is_policy
from otprune.engines.transformers.policy import check_settings
from otprune.engines.transformers.positions import Positions
from otprune.engines.transformers.question import Text
from otprune.engines.transformers.run import Run
from otprune.engines.transformers.settings import Logits, Settings, Weigh
from otprune.engines.transformers.sources import check_seen
from otprune.engines.transformers.tower import check_stage
from otprune.engines.transformers.versions import Untested
from otprune.errors import OTPruneError
from otprune.measures.mass import Distance, Mass
from otprune.selectors import Selector


class prune:  # noqa: N801 - used as a function is
    """Prune visual tokens in every `model(...)` and `model.generate(...)` of the `with` block.

    Of a policy of a robot also `model.sample_actions(...)`; base models and heads do not generate.

    The prompt is shortened before the model sees it, so cache, mask, beams and decoding need no
    changes. Of m tokens of an image, `selector.count(m)` are kept; of a video as many over all its
    frames. If `keep` is a rule, it decides (`Auto` for each image, `Budget` for all of one prompt).
    Anyres newline rows are tokens like any other. generate() returns the caller's prompt followed
    by the answer. A cache made in a block holds a pruned prompt: continue it in a block, on an
    enabled model, or with `otprune=` on the call.

        with otprune.prune(model, otprune.TransportPrune(0.1)) as run:
            answer = model.generate(**inputs, max_new_tokens=64)
        for item in run.last:
            print(item.modality, item.before, "->", item.after)

    The block applies to calls in its own thread and context. Other threads can use the model at the
    same time, unpruned or in blocks with other settings. A call in another thread can be pruned
    with this block's settings: `Thread(target=model.generate, kwargs=inputs | {"otprune": run})`.
    Of nested blocks the inner one applies. See `enable` for all threads, `Settings` for one call.

    Args:
        model: a supported model, see `otprune.engines.transformers.support`.
        selector: any selector of `otprune.selectors`; or `Settings`, without further arguments.
        positions: and all that follow: see `Settings`.

    Raises:
        UnsupportedError: the model or a call cannot be pruned correctly; says why.
        WeightError: the selector does not use weights, needs some, or they do not fit.
        OTPruneError: an argument is wrong, a block is entered twice, or the numbers of placeholders
            and features differ.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        selector: Selector | Settings,
        positions: Positions = "auto",
        merge: bool = False,
        mass: Mass = "none",
        alpha: float = 1.0,
        logits: Logits = "short",
        untested_transformers: Untested = "refuse",
        weights: Weigh | None = None,
        encoder: EncoderStage | None = None,
        distance: Distance = False,
        layers: LayerStage | None = None,
        text: Text | None = None,
    ) -> None:
        made = _settings(
            selector,
            positions,
            merge,
            mass,
            alpha,
            logits,
            untested_transformers,
            weights,
            encoder,
            distance,
            layers,
            text,
        )
        _check(model, made)
        self._block = entry.Block(model, entry.Active(made, Run(made)))
        self._entered = False

    def __enter__(self) -> Run:
        if self._entered:
            raise OTPruneError(
                "this prune(...) has been entered before: make one for every with block"
            )
        self._entered = True
        entry.begin(self._block)
        return self._block.active.run

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        entry.end(self._block)

    def __reduce__(self) -> str:
        raise OTPruneError(
            "a with block cannot be copied or pickled: pickle otprune.Settings(...), and make a "
            "block of it where it is used"
        )


def enable(
    model: PreTrainedModel,
    selector: Selector | Settings | None = None,
    positions: Positions = "auto",
    merge: bool = False,
    mass: Mass = "none",
    alpha: float = 1.0,
    logits: Logits = "short",
    untested_transformers: Untested = "refuse",
    weights: Weigh | None = None,
    encoder: EncoderStage | None = None,
    distance: Distance = False,
    layers: LayerStage | None = None,
    text: Text | None = None,
) -> Run:
    """Prune a model's calls in all threads, until `disable(model)`.

    A `with` block and the `otprune` argument of a call take precedence. Without a selector, only
    calls with that argument are pruned:

        otprune.enable(model)
        model.generate(**inputs, otprune=otprune.Settings(otprune.OTPrune(0.1)))

    `otprune=None` leaves a call unpruned. The model can be saved, loaded, copied and moved; a copy
    is enabled independently. Enabling again replaces the settings.

    Args:
        model: and all that follow: as for `prune`.

    Returns:
        The report on the last call, from whichever thread.

    Raises:
        UnsupportedError, OTPruneError: as for `prune`.
    """
    made = None
    if selector is not None:
        made = _settings(
            selector,
            positions,
            merge,
            mass,
            alpha,
            logits,
            untested_transformers,
            weights,
            encoder,
            distance,
            layers,
            text,
        )
    _check(model, made)
    run = Run(made)
    entry.enable(model, entry.Active(made, run))
    return run


def disable(model: PreTrainedModel) -> None:
    """End what `enable` began; no effect on a model that is not enabled.

    Running calls finish with the settings that they started with. `with` blocks stay in effect.
    """
    entry.disable(model)


def _settings(selector: Selector | Settings, *rest: Any) -> Settings:
    if not isinstance(selector, Settings):
        return Settings(selector, *rest)
    usual = ("auto", False, "none", 1.0, "short", "refuse", None, None, False, None)
    if rest[:-1] != usual or rest[-1] is not None:  # the text may be an array
        raise OTPruneError(
            "Settings and more arguments besides: say all of it in the settings, "
            "otprune.Settings(selector, positions=..., ...)"
        )
    return selector


def _check(model: Any, settings: Settings | None) -> None:
    check(model)
    if settings is not None and is_policy(type(model)):
        check_settings(model, settings)
    if settings is not None and settings.logits == "full":
        check_rows(model)
    model = base_of(model)
    distanced = settings is not None and settings.has_distance and settings.distance is True
    if settings is not None and (settings.has_mass or distanced):
        check_attention(model, distanced)
    if settings is not None and settings.encoder is not None:
        check_stage(model, settings.encoder)
    if settings is not None:
        check_seen(model, getattr(settings.selector, "needs", ()), settings.encoder)
    if settings is not None and settings.layers is not None:
        check_layers(model, settings.layers)
