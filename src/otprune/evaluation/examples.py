"""Images and questions from a folder or a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otprune.asking.images import SUFFIXES, Photo, is_url
from otprune.demo import SAMPLES_DIR
from otprune.errors import OTPruneError
from otprune.reading.images import images_in

SAMPLE = "sample"
METADATA = "metadata.jsonl"  # the name that the ImageFolder of datasets reads
IMAGE = ("image", "images", "file_name")
QUESTION = ("question", "prompt")
ANSWER = ("answer", "answers")
FORM = '{"image": "photo.jpg", "question": "What is this?", "answer": "a cat"}'


@dataclass(frozen=True)
class Example:
    """A question about one or several images.

    Attributes:
        images: paths from the folder of the data, or URLs, in the order of the prompt.
        answers: each counts as right; empty if none is known.
    """

    images: tuple[str, ...]
    question: str
    answers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    """What was read.

    Attributes:
        folder: where paths start.
        unused: fields of the lines that mean nothing here, in the order in which they came.
    """

    folder: Path
    examples: tuple[Example, ...]
    unused: tuple[str, ...] = ()

    def photos(self, example: Example) -> list[Photo]:
        """The images of an example, not read yet."""
        return [
            Photo(x if is_url(x) else str(self.folder / Path(x).expanduser()))
            for x in example.images
        ]


def read(source: Path, question: str | None = None) -> Data:
    """The examples of a folder or of a file with one JSON object a line.

    A line has `image` (or `images`, `file_name`: a path from the file's folder, a URL, or a list of
    them), `question` (or `prompt`) and, where it is known, `answer` (or `answers`: each is right).
    A folder with `metadata.jsonl` is that file; of another folder every image is an example, which
    needs `question`. "sample" is what comes with otprune: four photographs for the embedded model.

    Args:
        question: asked about every image that has none of its own.

    Raises:
        OTPruneError: there is no such file, or a line is not of this form; the message has its
            number.
    """
    if str(source) == SAMPLE and not source.exists():
        source = SAMPLES_DIR
    if source.is_dir():
        if not (source / METADATA).exists():
            if question is None:
                raise OTPruneError(
                    f"{source} has images and no questions: give one for all with --question, or "
                    f"write {source / METADATA} with lines such as {FORM}"
                )
            found = images_in(source, SUFFIXES)
            return Data(source, tuple(Example((path.name,), question) for path in found))
        source = source / METADATA
    if not source.exists():
        raise OTPruneError(f"no such folder or file: {source}")
    unused: dict[str, None] = {}
    examples = [_example(line, where, question, unused) for where, line in _lines(source)]
    if not examples:
        raise OTPruneError(f"{source} is empty: expected lines such as {FORM}")
    return Data(source.parent, tuple(examples), tuple(unused))


def _lines(source: Path) -> Iterator[tuple[str, Any]]:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise OTPruneError(f"{source} cannot be read as text: {cause}") from cause
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{source}, line {number}"
        try:
            yield where, json.loads(line)
        except ValueError as cause:
            raise OTPruneError(
                f"{where}: this is no JSON ({cause}): expected one object a line, such as {FORM}"
            ) from cause


def _example(line: Any, where: str, question: str | None, unused: dict[str, None]) -> Example:
    if not isinstance(line, dict):
        raise OTPruneError(f"{where}: expected an object, such as {FORM}")
    images = _texts(line, IMAGE, where)
    asked = _texts(line, QUESTION, where) or ([question] if question else [])
    if not images:
        raise OTPruneError(f"{where}: it has no image: expected a line such as {FORM}")
    if len(asked) != 1 or not asked[0].strip():
        raise OTPruneError(
            f"{where}: expected one question, such as {FORM}; --question asks one of every image"
        )
    unused.update(dict.fromkeys(name for name in line if name not in IMAGE + QUESTION + ANSWER))
    return Example(tuple(images), asked[0], tuple(_texts(line, ANSWER, where)))


def _texts(line: dict[str, Any], names: Sequence[str], where: str) -> list[str]:
    """The texts under the one of several names that a line has; numbers as text."""
    there = [name for name in names if line.get(name) is not None]
    if len(there) > 1:
        raise OTPruneError(f"{where}: {' and '.join(there)} mean the same: give one of them")
    if not there:
        return []
    value = line[there[0]]
    values = value if isinstance(value, list) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, (str, int, float)):
            raise OTPruneError(f"{where}: {there[0]} is {one!r}: expected text or a list of texts")
    return [str(one) for one in values]
