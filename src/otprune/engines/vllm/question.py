"""The question about each image of a prompt whose placeholders are not written yet."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from otprune.engines.common.question import HEADER, THOUGHT, text_behind
from otprune.errors import OTPruneError

# An image has more tokens than the header of an answer, which is told by its length.
_MANY = HEADER + THOUGHT + 1

Question = tuple[int, ...]


def questions(
    prompt: Sequence[int],
    targets: Mapping[str, Sequence[int]],
    counts: Mapping[str, int],
    ends: Collection[int],
    special: Collection[int],
    placeholders: Collection[int] = (),
) -> dict[str, list[Question]]:
    """Ids of the text behind each image and video in the last turn, see `text_behind`.

    Args:
        prompt: ids, with one mark for each image or video.
        targets: the mark of each modality, of one or more ids.
        counts: how many items of each modality there are.
        ends, special: as for `text_behind`; marks are special, too.
        placeholders: ids that stand for visual tokens; one is in each mark of several ids.

    Raises:
        OTPruneError: there are fewer marks than items.
    """
    starts = {modality: _found(prompt, targets[modality]) for modality in counts}
    for modality, count in counts.items():
        if len(starts[modality]) < count:
            raise OTPruneError(
                f"the prompt has {len(starts[modality])} {modality} placeholders for {count} of "
                "them, so where the question is cannot be told: give it as text"
            )
    items = sorted(
        (start, modality, i)
        for modality, count in counts.items()
        for i, start in enumerate(starts[modality][:count])
    )
    full: list[int] = []
    columns: dict[tuple[str, int], int] = {}
    done = 0
    for start, modality, i in items:
        mark = list(targets[modality])
        at = next((j for j, token in enumerate(mark) if token in placeholders), 0)
        full += [*prompt[done:start], *mark[:at], *mark[at : at + 1] * _MANY]
        columns[modality, i] = len(full) - 1
        full += mark[at + 1 :]
        done = start + len(mark)
    full += prompt[done:]
    marks = {token for modality in counts for token in targets[modality]}
    no_text = {*special, *marks}
    return {
        modality: [
            tuple(text_behind(full[: at + 1], full[at + 1 :], ends, no_text))
            for at in (columns[modality, i] for i in range(count))
        ]
        for modality, count in counts.items()
    }


def _found(prompt: Sequence[int], mark: Sequence[int]) -> list[int]:
    """Where a mark begins, from the left, without overlap."""
    starts: list[int] = []
    n, wanted = len(mark), list(mark)
    i = 0
    while i + n <= len(prompt):
        if list(prompt[i : i + n]) == wanted:
            starts.append(i)
            i += n
        else:
            i += 1
    return starts
