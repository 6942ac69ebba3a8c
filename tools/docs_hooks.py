"""What mkdocs does not know of this repository: files beside `docs/` that pages link to.

Pages are read in two places, in the repository and on the site. In the repository a link such as
`../examples/robot.py` leads to the file. On the site it leads to a page that shows the file, which
is made here. Only files that some page links to become pages.
"""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tools.messages import page as messages  # noqa: E402

DOCS = ROOT / "docs"
FOLDER = "repository"  # of the site, where files from beside docs/ are
SHOWN = ("CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md", "examples/tour.ipynb")
ALL_MESSAGES = "<!-- all messages -->"  # in a page: here goes the list of them
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", flags=re.M | re.S)
LANGUAGES = {".py": "python", ".sh": "bash", ".toml": "toml", ".yml": "yaml"}
HIDDEN = "---\nsearch:\n  exclude: true\n---\n\n"  # source files are read, not searched


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside `docs/` that a page, or such a file, links to."""
    todo = [ROOT / name for name in SHOWN]  # in nav
    todo += [path for file in files.documentation_pages() for path in linked(DOCS / file.src_uri)]
    done: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in done or path.is_relative_to(DOCS) or not path.is_relative_to(ROOT):
            continue
        done.add(path)
        for uri, content in pages_of(path):
            files.append(File.generated(config, uri, content=content))
        todo += linked(path) if path.suffix == ".md" else listed(path)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    source = ROOT / here.removeprefix(FOLDER + "/") if here.startswith(FOLDER) else DOCS / here
    if not source.is_file():
        source = source.with_suffix("")  # what a page was made of
        if source.suffix != ".ipynb":
            return markdown  # code, or a list with the site's own links

    if ALL_MESSAGES in markdown:
        markdown = markdown.replace(ALL_MESSAGES, messages())

    def turn(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(source.parent / match[1]))
        if not path.exists():
            return match[0]
        target = uri_of(path)
        return f"]({os.path.relpath(target, os.path.dirname(here) or '.')}{match[2] or ''})"

    def rewrite(text: str) -> str:
        return re.sub(r"\[(?=[+-]\d)", r"\[", LINK.sub(turn, text))  # intervals are no links

    parts = re.split(f"({FENCE.pattern})", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else rewrite(part) for part in parts)


def linked(page: Path) -> Iterator[Path]:
    for target, _ in LINK.findall(FENCE.sub("", page.read_text())):
        path = Path(os.path.normpath(page.parent / target))
        if path.exists():
            yield path


def listed(path: Path) -> list[Path]:
    return sorted(path.glob("*.py")) if path.is_dir() else []


def uri_of(path: Path) -> str:
    """Where a file or folder of the repository is on the site, as mkdocs names sources."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    inside = path.relative_to(ROOT).as_posix()
    return f"{FOLDER}/{inside}" if path.suffix == ".md" else f"{FOLDER}/{inside}.md"


def pages_of(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """Address and content of what shows a file or folder."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".md":
        yield uri_of(path), path.read_text()
    elif path.suffix == ".ipynb":
        yield from notebook(path)
    elif path.is_dir():
        rows = [f"- [{item.name}]({item.name}.md): {summary(item)}" for item in listed(path)]
        up = os.path.basename(name)
        text = "\n".join(rows).replace("](", f"]({up}/")
        yield uri_of(path), f"{HIDDEN}# {name}\n\n{text}\n"
    else:
        language = LANGUAGES.get(path.suffix, "text")
        run = f"\n```console\npython {name}\n```\n" if name.startswith("examples/") else ""
        code = f"````{language}\n{path.read_text()}````\n"
        yield uri_of(path), f"{HIDDEN}# {name}\n{run}\n{code}"


def summary(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or path.name).splitlines()[0]


def notebook(path: Path) -> Iterator[tuple[str, str | bytes]]:
    """A notebook as a page, with the outputs that it was saved with, and its pictures as files."""
    folder = os.path.dirname(uri_of(path))
    text = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        text.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data: dict[str, Any] = output.get("data", {})
            if "image/jpeg" in data:
                picture = f"{path.stem}_{len(text)}.jpg"
                yield f"{folder}/{picture}", base64.b64decode(data["image/jpeg"])
                text.append(f"![What the cell above shows]({picture})")
            else:
                said = "".join(output.get("text", data.get("text/plain", "")))
                text.append(f"```text\n{said.rstrip()}\n```")
    yield uri_of(path), "\n\n".join(text) + "\n"
