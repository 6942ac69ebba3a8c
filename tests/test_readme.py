"""README and docs: short, and what they link to is there. Their code runs in tests/docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [
    README,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs/reference").glob("*.md")),
]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 90


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_images_and_pages_that_it_names_exist(page) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^):]+))?\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.exists() or there.with_suffix(".md").exists(), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, todo = set(), [README]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in re.findall(r"\]\(([^)#:]+)[#)]", page.read_text()):
            todo.append((page.parent / target).resolve())
    assert {page.resolve() for page in PAGES} <= {page.resolve() for page in reached}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_installing_works_from_the_repository(page) -> None:
    """No line tells to fetch otprune from an index that it is not on."""
    for line in page.read_text().splitlines():
        if line.startswith("pip install") and "otprune" in line:
            assert "@ git+" in line, line
