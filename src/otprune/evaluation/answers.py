"""Asking a model about examples, unpruned and with each setting; the answers are kept in a file."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers

from otprune import __version__
from otprune.asking.answers import generate, wait
from otprune.asking.failures import told
from otprune.asking.images import Photo
from otprune.asking.models import Loaded, answer_of, prompt
from otprune.asking.words import check_question
from otprune.engines.transformers import prune
from otprune.engines.transformers.families import placeholder
from otprune.engines.transformers.memory import cache_bytes, cache_of
from otprune.engines.transformers.prompt import setting
from otprune.engines.transformers.watching.language import fingerprint
from otprune.errors import OTPruneError, UnsupportedError
from otprune.evaluation.examples import Data, Example
from otprune.selectors.preset import Pruning

UNPRUNED = "unpruned"


@dataclass(frozen=True)
class Setting:
    """One way to prune.

    Attributes:
        name: the method and its settings, as the user wrote them.
        keep: as the user wrote it.
    """

    name: str
    keep: str

    @property
    def key(self) -> str:
        """What tells it from others in the file."""
        return f"{self.name}, keep {self.keep}"


@dataclass(frozen=True)
class Answer:
    """What the model said about one example in one way.

    Attributes:
        answer: its text.
        tokens: visual tokens that the language model saw.
        prompt_tokens: all tokens of its prompt.
        seconds: from the images' pixels to the first token: encoder, selection, prefill.
        selector_seconds: of these the selection; 0 unpruned.
        cache_bytes: keys and values of the prompt; 0 for a model without such a cache.
    """

    answer: str
    tokens: int
    prompt_tokens: int
    seconds: float
    selector_seconds: float
    cache_bytes: int


class Failure(NamedTuple):
    """What failed: an example, or (with a way) one way to answer it."""

    example: Example
    way: str
    error: str


class Asked(NamedTuple):
    """All answers.

    Attributes:
        rows: of each example, by way: `UNPRUNED`, or a setting's key.
    """

    rows: Sequence[Mapping[str, Answer]]
    failures: Sequence[Failure]


def head(loaded: Loaded, max_new_tokens: int) -> dict[str, Any]:
    """What answers in one file have in common."""
    numbers = fingerprint(loaded.model)
    template = getattr(loaded.processor, "chat_template", None)
    processor = f"{loaded.processor.to_json_string()} {template}"
    return {
        "otprune": __version__,
        "model": loaded.name,
        "weights": hashlib.sha256(numbers.numpy().tobytes()).hexdigest()[:16],
        "processor": hashlib.sha256(processor.encode()).hexdigest()[:16],
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "device": device_name(loaded.model.device),
        "transformers": transformers.__version__,
        "max_new_tokens": max_new_tokens,
    }


def device_name(device: torch.device) -> str:
    """The kind of a device; of a GPU its name, since times depend on it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def ask_all(
    loaded: Loaded,
    data: Data,
    settings: Mapping[Setting, Pruning],
    found: Mapping[tuple[str, str], Answer],
    write: Callable[[dict[str, Any]], None],
    *,
    max_new_tokens: int,
    doing: Callable[[str], None],
    done: Callable[[], None],
) -> Asked:
    """Ask about every example, unpruned and with each setting.

    An example that fails is noted, and the next one follows; so is a setting that an example does
    not fit. All ways answer an example in turn, so that its times are of one moment.

    Args:
        found: answers of an earlier run, by `key_of` and way; they are not asked again.
        write: is given each new answer or failure as it comes.

    Raises:
        OTPruneError: a way failed on the first example that it was ever tried on: then it does not
            fit the model.
    """
    rows: list[dict[str, Answer]] = []
    failures: list[Failure] = []
    warm: set[str] = set()
    fits = {way for _, way in found}
    ways: dict[str, Pruning | None] = {UNPRUNED: None}
    ways |= {setting.key: how for setting, how in settings.items()}

    def failed(example: Example, way: str, error: Exception) -> None:
        failures.append(Failure(example, way, told(error)))
        write({"example": asdict(example), "way": way, "error": failures[-1].error})

    for example in data.examples:
        row: dict[str, Answer] = {}
        rows.append(row)
        photos = data.photos(example)
        try:
            key = key_of(photos, example.question)
            keys = {way: key + _code(how) for way, how in ways.items()}
            row |= {way: found[keys[way], way] for way in ways if (keys[way], way) in found}
            missing = [way for way in ways if way not in row]
            if missing:
                check_question(example.question, embedded=loaded.embedded)
                doing(f"{photos[0].short}: {example.question}")
                images = [photo.open().image for photo in photos]
                inputs = prompt(loaded, images, example.question)
        except Exception as error:
            failed(example, "", error)
            missing = []
        for way in missing:
            try:
                if way not in warm:  # the first call of each is slower
                    _answer(loaded, inputs, ways[way], 1)
                row[way] = _answer(loaded, inputs, ways[way], max_new_tokens)
            except Exception as error:
                if way not in fits:
                    raise OTPruneError(f"{way}: {told(error)}") from error
                failed(example, way, error)
                continue
            warm.add(way)
            fits.add(way)
            write({"example": asdict(example), "key": keys[way], "way": way, **asdict(row[way])})
        done()
    return Asked(rows, failures)


def key_of(photos: Sequence[Photo], question: str) -> str:
    """What tells a prompt from others: a digest of the content of its images and of its question.

    Raises:
        OTPruneError: an image is not there or cannot be fetched.
    """
    parts = [photo.read() for photo in photos] + [question.encode(errors="surrogatepass")]
    digests = b"".join(hashlib.sha256(part).digest() for part in parts)
    return hashlib.sha256(digests).hexdigest()[:32]


def _code(how: Pruning | None) -> str:
    """What tells a method of the user's own from an earlier version of it: a digest of its file."""
    kind = None if how is None else type(how["selector"])
    if kind is None or kind.__module__.startswith("otprune."):
        return ""
    return "-" + hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:16]


def _answer(loaded: Loaded, inputs: dict[str, Any], how: Pruning | None, longest: int) -> Answer:
    model = loaded.model
    for name in ("prefill_chunk_size", "prompt_lookup_num_tokens"):
        if setting(model, {}, name):
            raise UnsupportedError(
                f"{loaded.name} has {name} in its generation config, with which the first forward "
                "call is not the prefill: remove it there"
            )
    length = inputs["input_ids"].shape[1]
    pruning = contextlib.nullcontext() if how is None else prune(model, **how)
    with pruning as run, _first_forward(model) as first:
        wait(model.device)
        start = time.perf_counter()
        out = generate(model, inputs, longest)
    if not first:
        raise UnsupportedError(f"{loaded.name} generates without a forward call that can be timed")
    end, cache = first
    items = [] if run is None else run.last or []
    dropped = sum(item.before - item.after for item in items)
    return Answer(
        answer=answer_of(loaded, out.sequences, length),
        tokens=sum(item.after for item in items) if how else _visual(model, inputs),
        prompt_tokens=length - dropped,
        seconds=end - start,
        selector_seconds=sum(item.seconds for item in items),
        cache_bytes=cache,
    )


def _visual(model: Any, inputs: dict[str, Any]) -> int:
    return int((inputs["input_ids"] == placeholder(model.config, "image")).sum())


@contextlib.contextmanager
def _first_forward(model: Any) -> Iterator[list[Any]]:
    """The time at which the first forward ends, and the bytes of its cache: the prefill's."""
    seen: list[Any] = []

    def look(module: Any, args: Any, out: Any) -> None:
        if not seen:
            wait(model.device)
            seen.extend((time.perf_counter(), cache_bytes(cache_of(out))))

    hook = model.register_forward_hook(look)
    try:
        yield seen
    finally:
        hook.remove()
