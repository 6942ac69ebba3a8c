"""Which text of a prompt is the question about an image: a rule on token ids, for every engine."""

from __future__ import annotations

from collections.abc import Collection, Sequence

# A turn's text is longer than the header with which a chat template lets the model answer; with an
# empty thought in it, that has a few tokens more.
HEADER = 6
THOUGHT = 6


def text_behind(
    ahead: Sequence[int], behind: Sequence[int], ends: Collection[int], special: Collection[int]
) -> list[int]:
    """Ids of the text of the last turn that stands behind an image.

    A turn ends with an end-of-sequence token. If the template closes the user's turn with one, what
    follows the last is the header of the answer: a few tokens, one of the prompt's first two (the
    token that opens a turn) among them. A few tokens that are no such header are taken together
    with the turn before them, unless the prompt begins with the image and so has no headers.

    Args:
        ahead: the prompt up to the last placeholder of the image, inclusive.
        behind: the prompt from there on.
        ends: ids that end a turn.
        special: ids that are no text: placeholders, borders of images, beginnings and ends.
    """
    turns: list[list[int]] = [[]]
    for token in behind:
        if token in ends:
            turns.append([])
        else:
            turns[-1].append(token)
    last = turns.pop()
    front = _without_end(ahead, {*special, ahead[-1]})
    if turns and _is_header(last, turns[-1], ahead[:2], front):
        last = turns.pop()
    elif turns and len(last) <= HEADER and front:
        last = turns.pop() + last
    return [token for token in last if token not in special]


def _without_end(tokens: Sequence[int], of: Collection[int]) -> Sequence[int]:
    """The tokens without those at their end that are among some."""
    n = len(tokens)
    while n and tokens[n - 1] in of:
        n -= 1
    return tokens[:n]


def _is_header(
    last: Sequence[int], before: Sequence[int], first: Sequence[int], front: Sequence[int]
) -> bool:
    """Whether the last turn of a prompt is but the header of the answer to the one before it.

    Args:
        first: the first two tokens of the prompt.
        front: its text in front of the image.
    """
    if not last:
        return True
    opening = next((token for token in first if token in front and token in last), None)
    if opening is None or front[-1] == opening:
        # In a template without roles a turn holds question and answer, and closes with the latter.
        return False
    if len(last) <= HEADER:
        return True
    # How a prompt ends, its turns with question and answer have in their middle.
    return len(last) <= HEADER + THOUGHT and last[-1] not in before


def end_ids(configs: Sequence[object]) -> set[int]:
    """Ids that end a turn, by a model's configurations (transformers'), its text's among them."""
    found: set[int] = set()
    for config in configs:
        end = getattr(config, "eos_token_id", None)
        found |= set(end if isinstance(end, (list, tuple)) else [] if end is None else [end])
    return found


def special_ids(configs: Sequence[object]) -> set[int]:
    """Ids that are no text: placeholders, borders of images, beginnings and ends."""
    found = end_ids(configs)
    for config in configs:
        for name, value in config.to_dict().items():  # type: ignore[attr-defined]
            if name.endswith(("_token_id", "_token_index")) and isinstance(value, int):
                found.add(value)
    return found
