"""network-config as text: parsed with the position of every value, and written again for netplan.

netplan names the line and column of an error. The text for netplan has one value on each line, so that this position
leads back to the position in the seed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.shared.pyyaml import import_yaml, loader
from osbuild.shared.quoting import quoted

BAD = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


@dataclass(frozen=True)
class Position:
    """Line and column in network-config, counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"network-config, line {self.line}, column {self.column}"


@dataclass(frozen=True)
class Value:
    """A value with its position: `data` is a text, None, a tuple of values, or a mapping to (position, value)."""

    data: Any
    position: Position

    def plain(self) -> Any:
        """The value as Python has it, without positions."""
        if isinstance(self.data, dict):
            return {name: value.plain() for name, (_, value) in self.data.items()}
        return [value.plain() for value in self.data] if isinstance(self.data, tuple) else self.data

    def get(self, name: str) -> "Value | None":
        """An entry of a mapping, None if there is no such entry or this is not a mapping."""
        entry = self.data.get(name) if isinstance(self.data, dict) else None
        return entry[1] if entry else None


@dataclass(frozen=True)
class Document:
    """A network-config: `value` without `network:` around it, and what in it does not count."""

    value: Value
    problems: tuple[Problem, ...] = ()


def parse_document(data: bytes) -> Document:
    """Parse network-config. Raises `Problem` with line and column."""
    yaml = import_yaml()
    try:
        text = data.decode("utf-8-sig")
        read = loader()(text)
        root = read.get_single_node()
        value = Value({}, Position(1, 1)) if root is None else _value(root, read)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise Problem("has a character that is not allowed in YAML", where=str(place), hint="remove it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(_position(mark)) if mark else "network-config"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise Problem(f"does not parse: {reason}", where=where, hint="write YAML, indented with spaces") from None
    except UnicodeDecodeError as error:
        raise Problem("is not UTF-8 text", where=f"network-config, byte {error.start}") from None
    if not isinstance(value.data, dict):
        raise Problem("is not a mapping", where=str(value.position), hint="begin with `version: 2`")
    problems = [
        Problem(
            f"{quoted(key)} is there twice, and only the last counts", where=str(_position(mark)), hint="remove one"
        )
        for key, mark in read.repeated
    ]
    wrapped = value.get("network")
    if wrapped is None or not isinstance(wrapped.data, dict):
        return Document(value, tuple(problems))
    hint = "indent it, so that it is below `network`"
    problems += [
        Problem(f"{quoted(name)} beside `network` does not count", where=str(place), hint=hint)
        for name, (place, _) in value.data.items()
        if name != "network"
    ]
    return Document(wrapped, tuple(problems))


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _value(node: Any, read: Any) -> Value:
    """A node of PyYAML, which `read` has limited in size, as a value."""
    position = _position(node.start_mark)
    if node.id == "scalar":
        # As text, which is how netplan reads it: for YAML 1.1, `52:54:00:12:34:56` is a number and `no` a boolean.
        return Value(None if node.tag.endswith(":null") else _text(node), position)
    if node.id == "sequence":
        return Value(tuple(_value(item, read) for item in node.value), position)
    read.flatten_mapping(node)
    entries: dict[str, tuple[Position, Value]] = {}
    for key, item in node.value:
        if key.id != "scalar":
            raise Problem("a list or mapping is no name", where=str(_position(key.start_mark)), hint="write a word")
        entries[_text(key)] = (_position(key.start_mark), _value(item, read))
    return Value(entries, position)


def _text(node: Any) -> str:
    """The text of a scalar. Raises `Problem` for characters that would end a line in the files that netplan writes."""
    text = str(node.value)
    if bad := BAD.search(text):
        message = f"the character U+{ord(bad.group()):04X} can't be part of a name or value"
        raise Problem(message, where=str(_position(node.start_mark)), hint="remove it")
    return text


class NetplanWriter:
    """Writes values as JSON, one scalar or name on each line, and remembers the position of each line."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.positions: list[Position] = []

    def text(self, value: Value) -> str:
        """The text of a whole document."""
        self._write("", value, "")
        return "\n".join(self.lines) + "\n"

    def position(self, line: int) -> Position | None:
        """The position of what stands on `line` of the text, counted from 1."""
        return self.positions[line - 1] if 0 < line <= len(self.positions) else None

    def _add(self, text: str, position: Position) -> None:
        self.lines.append(text)
        self.positions.append(position)

    def _write(self, before: str, value: Value, after: str) -> None:
        data, position = value.data, value.position
        if isinstance(data, dict):
            self._add(before + "{", position)
            for number, (name, (place, item)) in enumerate(data.items()):
                comma = "," if number + 1 < len(data) else ""
                self._add(f"{_scalar(name)}:", place)
                self._write("", item, comma)
            self._add("}" + after, position)
        elif isinstance(data, tuple):
            self._add(before + "[", position)
            for number, item in enumerate(data):
                self._write("", item, "," if number + 1 < len(data) else "")
            self._add("]" + after, position)
        else:
            self._add(f"{before}{_scalar(data)}{after}", position)


def _scalar(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)


def value_at(data: Any, position: Position) -> Value:
    """Plain data as a value, everything in it at one position."""
    if isinstance(data, dict):
        return Value({name: (position, value_at(item, position)) for name, item in data.items()}, position)
    if isinstance(data, list | tuple):
        return Value(tuple(value_at(item, position) for item in data), position)
    return Value(data, position)
