"""The messages of otprune's errors, read from its source: `python -m tools.messages` lists them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "otprune"
GAP = "…"  # what differs from one time to the next
TOPICS = {  # by the longest place that fits; in the order of the page
    "keep": "keep",
    "checks": "Tokens, weights and cues",
    "selectors": "Methods",
    "engines/transformers": "Models of transformers",
    "engines/common": "Inside the encoder and the language model",
    "engines/transformers/watching": "Sessions",
    "streaming": "Selectors of frames",
    "reading": "Videos, cameras and folders",
    "engines/vllm": "vLLM",
    "engines/lmms_eval": "lmms-eval",
    "asking": "Models and images by name",
    "cli": "The command line",
    "page": "The page",
    "evaluation": "Evaluation",
    "planning": "Plans",
    "measures": "Distances and masses",
    "": "Everything else",
}


@dataclass(frozen=True)
class Message:
    kind: str  # name of the error
    text: str
    topic: str


def messages() -> Iterator[Message]:
    """Every message that is written where its error is raised."""
    for path in sorted(SOURCE.rglob("*.py")):
        inside = path.relative_to(SOURCE).with_suffix("").as_posix()
        topic = TOPICS[max((x for x in TOPICS if inside.startswith(x)), key=len)]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                kind, text = ast.unparse(node.exc.func), skeleton(node.exc.args[0])
                if kind.endswith("Error") and text is not None and text.strip(GAP + " :"):
                    yield Message(kind, text, topic)


def texts() -> Iterator[str]:
    """Every text in the source, in which a message may be put together."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (text := skeleton(node)) is not None:
                yield text


def skeleton(node: ast.AST) -> str | None:
    """A text with a gap for each value that is put into it; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [x.value if isinstance(x, ast.Constant) else GAP for x in node.values]
        return "".join(map(str, parts))
    return None


def page() -> str:
    """A table for each topic, for the documentation."""
    found = sorted(set(messages()), key=lambda message: message.text.strip(GAP + "= "))
    parts = []
    for topic in TOPICS.values():
        rows = [x for x in found if x.topic == topic and x.kind not in ("AttributeError",)]
        if rows:
            lines = [
                f"| {x.text.replace('|', '&#124;').replace('<', '&lt;')} | `{x.kind}` |"
                for x in rows
            ]
            parts.append(
                "\n".join([f"## {topic}\n", "| message | error |", "| --- | --- |", *lines])
            )
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
