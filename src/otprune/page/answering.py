"""One question answered with all visual tokens and with the kept ones, piece by piece."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL.Image import Image
from transformers import StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from otprune.asking.answers import only
from otprune.asking.models import Loaded, answer_of, prompt
from otprune.asking.stages import InEncoder, check_stage, in_encoder, staged_selection
from otprune.engines.transformers import Pruned, prune, visual_tokens
from otprune.engines.transformers.watching.language import Stop
from otprune.measures.cells import Cells
from otprune.page.wanted import Wanted
from otprune.selectors import Selection, Selector, merging
from otprune.selectors.batches import Batch

LONGEST = 64  # tokens of an answer


@dataclass(frozen=True)
class Kept:
    """What pruning kept of an image for one answer.

    Attributes:
        item: of the call's report.
        inside: the selection inside the encoder; None without one.
        cells: the transport plan: the kept token that each token belongs to.
        prompt: tokens of the shortened prompt.
    """

    item: Pruned
    inside: InEncoder | None
    cells: Cells
    prompt: int


@dataclass(frozen=True)
class Both:
    """The two answers so far.

    Attributes:
        kept: once the pruned answer is there; None before.
    """

    full: str = ""
    pruned: str = ""
    kept: Kept | None = None


def answers(
    loaded: Loaded, image: Image, question: str, wanted: Wanted, longest: int = LONGEST
) -> Iterator[Both]:
    """Answer both ways at the same time, each in a thread of its own; yields all that is new.

    If the caller stops early, so do both.

    Raises:
        OTPruneError: the model or the settings do not allow it.
    """
    inputs = prompt(loaded, image, question)
    check_stage(loaded.model, wanted.stage())
    wanted.pruning()  # raises what is wrong with the settings before a thread does
    both = Both()
    tasks = {
        "full": lambda say, stopped: _generate(loaded, inputs, longest, say, stopped),
        "pruned": lambda say, stopped: _pruned(loaded, inputs, wanted, longest, say, stopped),
    }
    for name, said in _together(tasks):
        if isinstance(said, str):
            change: dict[str, Any] = {name: said}
        elif name == "full":
            change = {"full": said[0]}
        else:
            change = dict(zip(("pruned", "kept"), said[0], strict=True))
        both = replace(both, **change)
        yield both


def answer(loaded: Loaded, image: Image, question: str, longest: int = LONGEST) -> str:
    """The answer with all visual tokens."""
    inputs = prompt(loaded, image, question)
    return _generate(loaded, inputs, longest)


def pruned_answer(
    loaded: Loaded, image: Image, question: str, wanted: Wanted, longest: int = LONGEST
) -> tuple[str, Kept]:
    """The answer with the kept tokens, and what was kept."""
    check_stage(loaded.model, wanted.stage())
    return _pruned(loaded, prompt(loaded, image, question), wanted, longest)


def measured(loaded: Loaded, image: Image, question: str, wanted: Wanted, kept: Kept) -> Selection:
    """How far the kept tokens are from all, with the method's certificate."""
    item, selector = kept.item, wanted.pruning()["selector"]
    if kept.inside is None:
        return selector.explain(item.features, cues=item.cues)
    assert item.features is not None
    whole = only(loaded, visual_tokens(loaded.model, prompt(loaded, image, question)))
    return staged_selection(whole.features, item.features, item.indices, item.masses)


def cells_of(selector: Selector, item: Pruned) -> Cells:
    """The transport plan from all tokens of an image to its kept ones, by their nearest."""
    if item.after == item.before:
        return Cells.whole(item.before)
    assert item.features is not None
    batch = Batch(item.features.unsqueeze(0))
    (cells,) = merging.cells(batch, item.indices.unsqueeze(0), selector.assignment_metric)
    return cells.to(torch.device("cpu"))


class _Said(BaseStreamer):
    """Hands on the whole text of an answer whenever a token is added.

    `TextStreamer` waits for the end of a word, and words of many languages have no spaces.
    """

    def __init__(self, decode: Callable[..., str], say: Callable[[str], None]) -> None:
        self._decode, self._say = decode, say
        self._ids: list[int] | None = None  # the prompt comes first

    def put(self, value: torch.Tensor) -> None:
        if self._ids is None:
            self._ids = []
            return
        self._ids += value.flatten().tolist()
        text = self._decode(self._ids, skip_special_tokens=True).strip()
        if not text.endswith("\ufffd"):  # a part of a character
            self._say(text)

    def end(self) -> None:
        pass


def _generate(
    loaded: Loaded,
    inputs: dict[str, Any],
    longest: int,
    say: Callable[[str], None] | None = None,
    stopped: threading.Event | None = None,
) -> str:
    """Greedy decoding, so that answers differ only because of the tokens."""
    more: dict[str, Any] = {}
    if say is not None:
        more["streamer"] = _Said(loaded.processor.decode, say)
    if stopped is not None:
        more["stopping_criteria"] = StoppingCriteriaList([Stop(stopped)])
    made = loaded.model.generate(
        **inputs, max_new_tokens=longest, do_sample=False, num_beams=1, **more
    )
    return answer_of(loaded, made, inputs["input_ids"].shape[1])


def _pruned(
    loaded: Loaded,
    inputs: dict[str, Any],
    wanted: Wanted,
    longest: int,
    say: Callable[[str], None] | None = None,
    stopped: threading.Event | None = None,
) -> tuple[str, Kept]:
    how = wanted.pruning()
    with prune(loaded.model, encoder=wanted.stage(), **how) as run:
        text = _generate(loaded, inputs, longest, say, stopped)
        item = only(loaded, run.last)
    length = inputs["input_ids"].shape[1] - item.before + item.after
    return text, Kept(item, in_encoder(run.encoder), cells_of(how["selector"], item), length)


def _together(
    tasks: dict[str, Callable[[Callable[[str], None], threading.Event], Any]],
) -> Iterator[tuple[str, Any]]:
    """Run tasks side by side; yields the texts that each says, and in a tuple what it returns.

    A generator of a page is not always resumed in one thread, so a block of `prune` may not be
    open across a yield: each task has a thread, and the block is in there.
    """
    said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work(name: str) -> None:
        try:
            said.put((name, (tasks[name](lambda text: said.put((name, text)), stopped),)))
        except BaseException as error:
            said.put((name, error))

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in tasks]
    for thread in threads:
        thread.start()
    try:
        left = len(threads)
        while left:
            name, piece = said.get()
            if isinstance(piece, BaseException):
                raise piece
            left -= isinstance(piece, tuple)
            yield name, piece
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
