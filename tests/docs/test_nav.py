"""Every page has its place on the site, and every public name its place in the reference."""

import re

import otprune

from .pages import DOCS, ROOT


def test_every_page_is_in_the_navigation():
    named = set(re.findall(r": ([\w/.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert there == {name for name in named if not name.startswith("repository/")}


def test_every_public_name_is_in_the_reference():
    pages = "".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: otprune\.(\w+)$", pages, flags=re.M)
    # Of one name with its module, which it would be taken for.
    named += re.findall(r"^::: otprune\.reading\.frames\.(frames)$", pages, flags=re.M)
    assert sorted({*named, "__version__"}) == sorted(otprune.__all__)
    assert len(named) == len(set(named))
