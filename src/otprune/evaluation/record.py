"""The file of answers: a head, then one line an answer or an error, so that a run can go on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from otprune.errors import OTPruneError
from otprune.evaluation.answers import Answer


@dataclass(frozen=True)
class Record:
    """An open file of answers.

    Attributes:
        found: the answers that it held when it was opened, by the prompt's key and the way.
            Failures are tried again.
    """

    found: Mapping[tuple[str, str], Answer]
    file: IO[str] | None

    def write(self, line: Mapping[str, Any]) -> None:
        """Add a line; it is on the disk's way at once, so that a killed run loses nothing."""
        if self.file is not None:
            self.file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.file.flush()


@contextmanager
def opened(path: Path | None, head: Mapping[str, Any]) -> Iterator[Record]:
    """Open a file of answers, a new one or one to go on with; None keeps none.

    Args:
        head: what all answers in a file have in common.

    Raises:
        OTPruneError: the file is none of answers, or was made with another head.
    """
    if path is None:
        yield Record({}, None)
        return
    found, whole = _read(path, head) if path.exists() and path.stat().st_size else ({}, 0)
    # Added to at its end, wherever that is: two runs on one file do not overwrite each other.
    # A half of a character, as in names of bytes that are no UTF-8, is written as JSON escapes it.
    with path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.truncate(whole)  # what a killed run left of a line
        record = Record(found, file)
        if not whole:
            record.write(head)
        yield record


def _read(path: Path, head: Mapping[str, Any]) -> tuple[dict[tuple[str, str], Answer], int]:
    """The answers in a file, and the bytes up to the end of its last whole line."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    try:
        # Not splitlines(): answers may have line separators of Unicode.
        lines = [json.loads(line) for line in content[:whole].decode("utf-8").split("\n")[:-1]]
        before = lines[0]
        before["otprune"]
        found = {
            (line["key"], line["way"]): Answer(**{f.name: line[f.name] for f in fields(Answer)})
            for line in lines[1:]
            if "error" not in line
        }
    except (ValueError, LookupError, TypeError, AttributeError) as cause:
        raise OTPruneError(
            f"{path} is no file of answers that `otprune eval` wrote: give another --out"
        ) from cause
    for name in head:
        if before.get(name) != head[name]:
            raise OTPruneError(
                f"{path} has answers with {name} {before.get(name)}, and this run has "
                f"{head[name]}: give another --out, or remove it"
            )
    return found, whole
