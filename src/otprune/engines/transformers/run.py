"""What can be seen of the last call."""

from __future__ import annotations

from torch import Tensor

from otprune.engines.transformers.inputs import Pruned, Shrunk
from otprune.engines.transformers.settings import Settings


class Run:
    """A look at the last call: what `with prune(...) as run` and `enable(...)` give.

    Decoding steps on a cache leave it as it is. Where several threads call, it is whoever came
    last; a with block in each thread has one of its own.

    settings: how calls are pruned; None where each brings its own. `model.generate(...,
        otprune=run)` prunes a call as this run does wherever it is made, and reports here: in
        another thread, for instance, to which a with block does not reach.
    last: one entry for each image and video of the last call, in prompt order; empty after a call
        without any; None before the first call.
    columns: `(B, n)` int64, the column of the caller's prompt that each column of the shortened one
        comes from, -1 for padding that the caller's has not; None after a call without images.
    input_ids, labels: `(B, n)`, of the shortened prompt, beside the logits that `model(...)`
        returned; None likewise, labels also if the call had none. The label of the caller's first
        column is -100: nothing predicts it, also where new padding stands in front of it.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings
        self.last: list[Pruned] | None = None
        self._clear()

    def _clear(self) -> None:
        self.columns: Tensor | None = None
        self.input_ids: Tensor | None = None
        self.labels: Tensor | None = None

    def start(self) -> None:
        """A call without images, as far as is known."""
        self.last = []
        self._clear()

    def record(self, shrunk: Shrunk) -> None:
        """A call whose prompt was looked at."""
        self.last = shrunk.items
        self.columns = shrunk.columns
        self.input_ids = shrunk.inputs["input_ids"]
        self.labels = shrunk.inputs.get("labels")

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
        return Run, (self.settings,)  # a saved model does not carry the last call along
