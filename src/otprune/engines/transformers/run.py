"""The report on the last call."""

from __future__ import annotations

from torch import Tensor

from otprune.engines.transformers.inputs import Pruned, Shrunk
from otprune.engines.transformers.memory import LayerCut
from otprune.engines.transformers.positions import Scheme
from otprune.engines.transformers.settings import Settings
from otprune.engines.transformers.tower import Staged


class Run:
    """The report on the last call, returned by `with prune(...) as run` and `enable(...)`.

    Decoding steps on a cache do not change it. If several threads share a run, it reports the call
    that wrote to it last. A with block in each thread has its own run.

    settings: how calls are pruned; None if only calls with their own settings are. A call with
        `otprune=run` is pruned with these settings and reports to this run. This also works in
        another thread, where the with block does not apply.
    last: one entry for each image and video of the last call, in prompt order. Empty after a call
        without images; None before the first call.
    columns: `(B, n)` int64, for each column of the shortened prompt the column of the caller's
        prompt that it comes from; -1 for added padding. None after a call without images.
    encoder: what each call of the vision encoder kept inside it; empty without an `EncoderStage`.
    layers: what each cut of a `LayerStage` kept inside the language model, once the prompt has gone
        through it; empty without one, and where none of its cuts drops a token.
    distance: whether attention in the last call had the distance term.
    positions: "preserved" or "compact", the scheme of the last call. None after a call that lost no
        token.
    input_ids, labels: `(B, n)`, those of the shortened prompt; they match the logits that
        `model(...)` returned. None after a call without images; labels also if the call had none,
        or had some for each sequence.
        The label of the caller's first column is -100, since no column before it predicts it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings
        self.last: list[Pruned] | None = None
        self._clear()

    def _clear(self) -> None:
        self.encoder: list[Staged] = []
        self.layers: list[LayerCut] = []
        self.columns: Tensor | None = None
        self.distance = False
        self.positions: Scheme | None = None
        self.input_ids: Tensor | None = None
        self.labels: Tensor | None = None

    def start(self) -> None:
        """Start the report of a call, so far without images."""
        self.last = []
        self._clear()

    def record(self, shrunk: Shrunk) -> None:
        """Report a call with images."""
        self.last = shrunk.items
        self.encoder = shrunk.encoder
        deep = None if shrunk.memory is None else shrunk.memory.deep
        self.layers = [] if deep is None else deep.cuts
        self.columns = shrunk.columns
        self.distance = shrunk.memory is not None and shrunk.memory.distance is not None
        self.positions = shrunk.positions
        self.input_ids = shrunk.inputs["input_ids"]
        labels = shrunk.inputs.get("labels")
        of_tokens = labels is not None and labels.shape == self.input_ids.shape
        self.labels = labels if of_tokens else None

    def __repr__(self) -> str:
        if self.last is None:
            return "Run(no call yet)"
        if not self.last:
            return "Run(no image in the last call)"
        kept = ", ".join(f"{x.modality} {x.before} -> {x.after}" for x in self.last)
        before, after = (sum(getattr(x, name) for x in self.last) for name in ("before", "after"))
        total = f"; {before} -> {after} in all" if len(self.last) > 1 else ""
        return f"Run({kept}{total})"

    def __reduce__(self) -> tuple[type[Run], tuple[Settings | None]]:
        return Run, (self.settings,)  # the report is not saved with a model
