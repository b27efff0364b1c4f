"""The documents: every link leads somewhere, and terms are those of the glossary."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from osbuild.cli import cli
from osbuild.host import paths
from tests.support.checkout import list_files

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


def test_each_row_about_the_distributions_names_tests_that_exist() -> None:
    tests = {
        f"{path.stem}.{name}"
        for folder in ("tests", "qemu-tests")
        for path in (paths.PROJECT / folder).rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    text = (paths.PROJECT / "docs/distributions.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in re.findall(r"^\|.*\|$", text, re.MULTILINE)]
    features = [row for row in rows if row[0] != "feature" and not set(row[0]) <= set("- ")]
    assert len(features) > 20
    for row in features:
        assert len(row) == 5, row
        named = re.findall(r"`([^`]+)`", row[4])
        assert named and set(named) <= tests, f"{row[0]}: {set(named) - tests or 'names no test'}"


def test_each_term_has_one_definition() -> None:
    terms = re.findall(r'<a id="([^"]+)">', GLOSSARY.read_text())
    assert len(terms) > 80
    assert sorted(set(terms)) == sorted(terms)


def avoided() -> list[str]:
    """The words of the glossary's first table of decisions, which no document uses."""
    table = GLOSSARY.read_text().partition("## Decisions")[2].partition("\n\nOne word with several meanings")[0]
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", table, re.MULTILINE)
    return [word for row in rows[1:] if not row.startswith("---") for word in row.split(", ")]


def prose(path: Path) -> str:
    """A document without code, and without tables of what was recorded or of what not to say."""
    text = re.sub(r"`[^`]*`", "", FENCE.sub("", path.read_text()))
    quoted = path.name in ("glossary.md", "coding-style.md", "failure-matrix.md")
    return "\n".join(line for line in text.splitlines() if not (quoted and line.startswith("|")))


def help_texts(command: click.Command, name: str) -> Iterator[tuple[str, str]]:
    """The help of a command and of all below it."""
    context = click.Context(command, info_name=name)
    yield name, command.get_help(context)
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            below = command.get_command(context, word)
            assert below is not None
            yield from help_texts(below, f"{name} {word}")


def code_prose(path: Path) -> str:
    """The comments, docstrings and messages of a module, without code. A string without a space is a name."""
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text()).readline))
    # From Python 3.12 on, the text of an f-string is a token of its own.
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    text = "\n".join(token.string for token in tokens if token.type in kinds and " " in token.string)
    return re.sub(r"`[^`\n]*`", "", text)


def source_texts() -> Iterator[tuple[str, str]]:
    """What the program, the images' scripts and the boards say, to users and to developers."""
    for path in list_files():
        name = str(path.relative_to(paths.PROJECT))
        if not name.startswith(("osbuild/", "overlays/", "boards/", "profiles/", "cloud-init/")) or path.is_symlink():
            continue
        if path.suffix == ".py":
            yield name, code_prose(path)
        elif path.suffix not in (".sum", ".mod", ".txt"):
            yield name, path.read_text(errors="replace")


def test_documents_help_and_code_use_the_terms_of_the_glossary() -> None:
    terms = avoided()
    assert "floor" in terms and len(terms) > 10
    texts = {path.name: prose(path) for path in DOCUMENTS} | dict(help_texts(cli, "edge-osbuild"))
    assert {"README.md", "edge-osbuild flash", "edge-osbuild keys rotate"} <= texts.keys()
    texts |= dict(source_texts())
    assert {"osbuild/flash/job.py", "osbuild/boot/boot.scr", "boards/rpi4.yaml"} <= texts.keys()
    assert "be wiped" not in texts["osbuild/flash/job.py"] and "so it might" in texts["osbuild/flash/job.py"]
    match = [
        (name, word)
        for name, text in texts.items()
        for word in terms
        if re.search(rf"\b{re.escape(word)}s?\b", " ".join(text.split()), re.IGNORECASE)
    ]
    assert match == []
