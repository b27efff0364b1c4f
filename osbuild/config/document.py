"""Parses one YAML file into a document whose nodes have positions.

Only plain YAML is accepted: one document of mappings with string keys, lists and scalars. Anchors, aliases, merge keys,
tags and duplicate keys are errors; profiles share settings with `extends`.
"""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

from osbuild.host import paths
from osbuild.shared.errors import Error
from osbuild.shared.files import read_start

LARGEST = 256 * 1024  # bytes
DEEPEST = 32

KINDS = {
    f"tag:yaml.org,2002:{tag}": kind
    for tag, kind in {
        "str": "string",
        "int": "number",
        "float": "number",
        "bool": "boolean",
        "null": "null",
        "timestamp": "date",
        "value": "sign",
    }.items()
}


@dataclass(frozen=True)
class Mark:
    """A position in a file; line and column count from 1."""

    path: Path
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        return f"{self.origin}:{self.column}"

    @property
    def origin(self) -> str:
        """`file:line`"""
        return f"{paths.display_path(self.path)}:{self.line}"


@dataclass(frozen=True)
class Scalar:
    """`kind` is what YAML 1.1 takes the text for: string, number, boolean, null, date or sign."""

    text: str
    kind: str
    mark: Mark


@dataclass(frozen=True)
class List:
    items: "tuple[Node, ...]"
    mark: Mark


@dataclass(frozen=True)
class Map:
    entries: "dict[str, MappingItem]"
    mark: Mark


Node = Scalar | List | Map


@dataclass(frozen=True)
class MappingItem:
    """A value and the position of its key."""

    mark: Mark
    value: Node = field(repr=False)


def quote_text(text: str) -> str:
    """Quote `text` for a message: on one line, and shortened."""
    line = "".join(sign if sign.isprintable() else "·" for sign in text)
    return f"`{line if len(line) <= 60 else line[:57] + '…'}`"


class _PlainLoader(yaml.SafeLoader):
    """Refuses YAML that is not plain before nodes are created, so that documents can't expand or recurse."""

    depth = 0

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.path = path

    def mark(self, mark: yaml.Mark | None) -> Mark:
        return Mark(self.path, mark.line + 1, mark.column + 1) if mark else Mark(self.path)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        where = str(self.mark(event.start_mark))
        hint = "write the value out; to share settings between profiles use `extends`"
        if event.anchor is not None:
            sign = "*" if isinstance(event, yaml.AliasEvent) else "&"  # without its name: it may be a password
            message = f"found an anchor or alias (`{sign}`), expected a plain value"
            raise Error(message, where=where, hint=hint)
        tag = getattr(event, "tag", None)
        if tag is not None:
            hint = 'remove the tag; a text is written in quotes, "like this"'
            raise Error("found a tag (`!`), expected a plain value", where=where, hint=hint)
        if self.depth == DEEPEST:
            message = f"found more than {DEEPEST} levels of nesting"
            raise Error(message, where=where, hint="check the brackets and the indentation")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def read_document(path: Path) -> Map:
    """Read one file. Raises `Error` with a position unless it is plain YAML with a mapping at its top."""
    document = parse_document(_text(path), path)
    if document is None:
        raise Error("the file is empty", where=str(Mark(path)), hint="begin with `name:` and `version:`")
    if not isinstance(document, Map):
        message = "found no keys, expected a profile"
        raise Error(message, where=str(document.mark), hint="write `KEY: VALUE` lines, beginning with `name:`")
    return document


def parse_document(text: str, path: Path) -> Node | None:
    """Parse any plain YAML; None for an empty text. `path` is for positions. Raises `Error` like `read_document`."""
    if unprintable := yaml.reader.Reader.NON_PRINTABLE.search(text):
        message = f"found the character U+{ord(unprintable.group()):04X}, expected text"
        raise Error(message, where=_position(path, text[: unprintable.start()]), hint="remove it")
    loader = _PlainLoader(text, path)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax(error, loader) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets chr() and int() fail on escapes and directives that are out of range.
        where = str(loader.mark(loader.get_mark()))
        raise Error("not valid YAML", where=where, hint="check the escapes and quotes around here") from error
    finally:
        loader.dispose()
    return None if node is None else _convert_node(node, loader)


def _text(path: Path) -> str:
    start = str(Mark(path))
    try:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file" if path.exists() else "not there"
            raise Error(f"cannot read the profile: it is {kind}", where=start, hint="name a YAML file")
        data = read_start(path, LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "no such file can exist"
        raise Error(f"cannot read the profile: {reason}", where=start, hint="check its path and permissions") from error
    if len(data) > LARGEST:
        message = f"found a file of more than {LARGEST // 1024} KiB, expected a profile"
        raise Error(message, where=start, hint="store data in separate files and name them in the profile")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", errors="replace")
        message = f"found the byte 0x{data[error.start]:02x}, expected UTF-8 text"
        raise Error(message, where=_position(path, before), hint="save the file as UTF-8") from error
    return text


def _position(path: Path, before: str) -> str:
    return str(Mark(path, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1))


def _syntax(error: yaml.MarkedYAMLError, loader: _PlainLoader) -> Error:
    """Translate an error of PyYAML for the user."""
    problem = error.problem or error.context or "not valid YAML"
    mark = error.problem_mark or error.context_mark
    hint = "check the indentation, brackets and quotes around here"
    if r"'\t'" in problem:
        problem, hint = "found a tab, expected spaces", "indent with spaces only"
    elif "mapping values are not allowed" in problem:
        problem = "found a second `:`, expected one value"
        hint = "put a value that contains `: ` in quotes, and check the indentation"
    elif "could not find expected ':'" in problem:
        problem, hint = "found a line without `:`, expected `KEY: VALUE`", "add the colon, and a space after it"
        mark = error.context_mark or mark
    elif "cannot start any token" in problem:
        hint = "put the value in quotes"
    elif "another document" in problem:
        problem, hint = "found a second document, expected one", "remove the `---` line and what follows it"
    return Error(problem, where=str(loader.mark(mark)), hint=hint)


def _convert_node(node: yaml.Node, loader: _PlainLoader) -> Node:
    mark = loader.mark(node.start_mark)
    if isinstance(node, yaml.SequenceNode):
        return List(tuple(_convert_node(item, loader) for item in node.value), mark)
    if isinstance(node, yaml.MappingNode):
        entries: dict[str, MappingItem] = {}
        for name, value in node.value:
            key = _key(name, loader)
            if key.text in entries:
                message = f"found the key {quote_text(key.text)} twice"
                hint = f"it is also in line {entries[key.text].mark.line}: keep one of the two"
                raise Error(message, where=str(key.mark), hint=hint)
            entries[key.text] = MappingItem(key.mark, _convert_node(value, loader))
        return Map(entries, mark)
    if any("\ud800" <= sign <= "\udfff" for sign in node.value):
        raise Error("found half of a surrogate pair, expected text", where=str(mark), hint="write the character itself")
    return Scalar(node.value, KINDS[node.tag], mark)


def _key(node: yaml.Node, loader: _PlainLoader) -> Scalar:
    where = str(loader.mark(node.start_mark))
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:merge":
        hint = "to share settings between profiles use `extends`"
        raise Error("found a merge key `<<`, expected a plain key", where=where, hint=hint)
    key = _convert_node(node, loader)
    if not isinstance(key, Scalar):
        raise Error("found a list or mapping as a key, expected a name", where=where, hint="check `?`, `[` and `{`")
    if key.kind != "string":
        hint = f'write "{key.text[:60]}" in quotes if it is meant as a name'
        raise Error(f"found the {key.kind} {quote_text(key.text)} as a key, expected a name", where=where, hint=hint)
    return key
