"""network-config, parsed with the position of every value, and written again for netplan.

netplan reports the line of an error in its own input. That input has one value per line, so each line can be mapped to
a position in the seed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.shared.pyyaml import import_yaml, loader
from osbuild.shared.quoting import quoted

# Control characters, line separators, surrogates and byte order marks.
FORBIDDEN = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


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
        """The value without positions: dict, list, str or None."""
        if isinstance(self.data, dict):
            return {name: value.plain() for name, (_, value) in self.data.items()}
        return [value.plain() for value in self.data] if isinstance(self.data, tuple) else self.data

    def get(self, name: str) -> "Value | None":
        """An entry of a mapping, None if there is no such entry or this is not a mapping."""
        entry = self.data.get(name) if isinstance(self.data, dict) else None
        return entry[1] if entry else None


@dataclass(frozen=True)
class NetworkDocument:
    """A network-config: `value` is the part below `network:`; `problems` lists entries without effect."""

    value: Value
    problems: tuple[Problem, ...] = ()


def parse_document(data: bytes) -> NetworkDocument:
    """Parse network-config. Raises `Problem` with line and column."""
    yaml = import_yaml()
    try:
        text = data.decode("utf-8-sig")
        yaml_loader = loader()(text)
        root = yaml_loader.get_single_node()
        value = Value({}, Position(1, 1)) if root is None else _value(root, yaml_loader)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        position = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise Problem("contains a character that YAML does not allow", where=str(position), hint="remove it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(_position(mark)) if mark else "network-config"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise Problem(
            f"is not valid YAML: {reason}", where=where, hint="correct the syntax; indent with spaces"
        ) from None
    except UnicodeDecodeError as error:
        raise Problem("is not UTF-8 text", where=f"network-config, byte {error.start}") from None
    if not isinstance(value.data, dict):
        raise Problem("is not a mapping", where=str(value.position), hint="begin with `version: 2`")
    problems = [
        Problem(
            f"{quoted(key)} appears twice; only the last one has an effect",
            where=str(_position(mark)),
            hint="remove one",
        )
        for key, mark in yaml_loader.repeated
    ]
    wrapped = value.get("network")
    if wrapped is None or not isinstance(wrapped.data, dict):
        return NetworkDocument(value, tuple(problems))
    hint = "indent it so that it is below `network`"
    problems += [
        Problem(f"{quoted(name)} beside `network` has no effect", where=str(position), hint=hint)
        for name, (position, _) in value.data.items()
        if name != "network"
    ]
    return NetworkDocument(wrapped, tuple(problems))


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


def _value(node: Any, yaml_loader: Any) -> Value:
    """Convert a node of PyYAML. `yaml_loader` has limited its size and depth."""
    position = _position(node.start_mark)
    if node.id == "scalar":
        # netplan reads scalars as text. In YAML 1.1, `52:54:00:12:34:56` would be a number and `no` a boolean.
        return Value(None if node.tag.endswith(":null") else _text(node), position)
    if node.id == "sequence":
        return Value(tuple(_value(item, yaml_loader) for item in node.value), position)
    yaml_loader.flatten_mapping(node)
    entries: dict[str, tuple[Position, Value]] = {}
    for key, item in node.value:
        if key.id != "scalar":
            raise Problem(
                "a list or mapping cannot be a name", where=str(_position(key.start_mark)), hint="write a text"
            )
        entries[_text(key)] = (_position(key.start_mark), _value(item, yaml_loader))
    return Value(entries, position)


def _text(node: Any) -> str:
    """The text of a scalar. Raises `Problem` for characters that would break the line-based files of netplan."""
    text = str(node.value)
    if forbidden := FORBIDDEN.search(text):
        message = f"the character U+{ord(forbidden.group()):04X} is not allowed in a name or value"
        raise Problem(message, where=str(_position(node.start_mark)), hint="remove it")
    return text


class NetplanWriter:
    """Writes values as JSON, one scalar or name per line, and records the position that each line has in the seed."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.positions: list[Position] = []

    def text(self, value: Value) -> str:
        """The text of a document. Call it once per writer."""
        self._write("", value, "")
        return "\n".join(self.lines) + "\n"

    def position(self, line: int) -> Position | None:
        """The position in the seed of a line of the text, counted from 1; None if there is no such line."""
        return self.positions[line - 1] if 0 < line <= len(self.positions) else None

    def _add(self, text: str, position: Position) -> None:
        self.lines.append(text)
        self.positions.append(position)

    def _write(self, before: str, value: Value, after: str) -> None:
        data, position = value.data, value.position
        if isinstance(data, dict):
            self._add(before + "{", position)
            for number, (name, (name_position, item)) in enumerate(data.items()):
                comma = "," if number + 1 < len(data) else ""
                self._add(f"{_scalar(name)}:", name_position)
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
    """Plain data as a value; all of it gets the same position."""
    if isinstance(data, dict):
        return Value({name: (position, value_at(item, position)) for name, item in data.items()}, position)
    if isinstance(data, list | tuple):
        return Value(tuple(value_at(item, position) for item in data), position)
    return Value(data, position)
