"""The messages that the documentation quotes are those of the source."""

import re

import pytest

from tools.messages import GAP, messages, texts

from .pages import DOCS

PAGE = (DOCS / "troubleshooting.md").read_text()
OF_OTHERS = {"There is no module or parameter named 'vision_tower.embeddings'"}  # vLLM's own
QUOTED = [
    message
    for message in re.findall(r"^\| `([^`]+)` \|", PAGE, flags=re.M)
    if message not in OF_OTHERS
]


@pytest.fixture(scope="module")
def known():
    return {re.sub(r"\s+", " ", text) for text in texts()}


def fits(quoted, text):
    """Whether the parts of a quotation stand in a text, in this order, with any gaps between."""
    parts = [re.escape(part) for part in quoted.split(GAP) if part.strip()]
    return re.search(".*".join(parts), text, flags=re.S) is not None


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_in_the_source(quoted, known):
    assert any(fits(quoted, text) for text in known)


def test_a_message_that_is_nowhere_would_be_noticed(known):
    assert len(QUOTED) > 80
    assert not any(fits("the moon is … of cheese", text) for text in known)


def test_the_list_has_every_kind_of_error():
    found = list(messages())
    assert len(found) > 300
    assert {"UnsupportedError", "KeepError", "CueError", "FrameError", "TokenError"} <= {
        message.kind for message in found
    }
