"""The documents: every link leads somewhere, and terms are those of the glossary."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuild import paths

DOCUMENTS = sorted([*paths.PROJECT.glob("*.md"), *(paths.PROJECT / "docs").glob("*.md")])
GLOSSARY = paths.PROJECT / "docs/glossary.md"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What a link into a document may name: its headings as GitHub has them, and explicit anchors."""
    text = FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def links(path: Path) -> Iterator[str]:
    """Links of a document, but for those to other sites."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text())):
        if not link.startswith(("http://", "https://")):
            yield link


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_to_a_document_and_a_heading(path: Path) -> None:
    for link in links(path):
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_document_is_linked_from_the_readme() -> None:
    linked = {name.partition("#")[0] for name in links(paths.PROJECT / "README.md")}
    assert {str(path.relative_to(paths.PROJECT)) for path in DOCUMENTS if path.name != "README.md"} <= linked


def test_each_term_has_one_definition() -> None:
    terms = re.findall(r'<a id="([^"]+)">', GLOSSARY.read_text())
    assert len(terms) > 80
    assert sorted(set(terms)) == sorted(terms)
