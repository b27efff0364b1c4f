"""network-config as text: parsed with the position of every value, and written again for netplan.

netplan names the line and column of an error. The text for netplan has one value on each line, so that this position
leads back to the position in the seed.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from osbuild.agent.errors import Problem
from osbuild.agent.pyyaml import library

LARGEST = 20_000  # values, after aliases are expanded
DEEPEST = 40  # levels


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


def parse(data: bytes) -> Value:
    """Parse network-config; `network:` around it is removed. Raises `Problem` with line and column."""
    yaml = library()
    try:
        loader = yaml.SafeLoader(data.decode("utf-8-sig"))
        root = loader.get_single_node()
        if root is None:
            return Value({}, Position(1, 1))
        value = _Builder(loader).value(root, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = str(Position(mark.line + 1, mark.column + 1)) if mark else "network-config"
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or "not YAML"
        raise Problem(f"does not parse: {reason}", where=where, hint="write YAML, indented with spaces") from None
    except UnicodeDecodeError as error:
        raise Problem("is not UTF-8 text", where=f"network-config, byte {error.start}") from None
    except RecursionError:
        raise Problem(f"has more than {DEEPEST} levels", where="network-config") from None
    if not isinstance(value.data, dict):
        raise Problem("is not a mapping", where=str(value.position), hint="begin with `version: 2`")
    wrapped = value.get("network")
    return wrapped if wrapped is not None and isinstance(wrapped.data, dict) else value


class _Builder:
    """Turns nodes of PyYAML into values."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.count = 0

    def value(self, node: Any, depth: int) -> Value:
        position = Position(node.start_mark.line + 1, node.start_mark.column + 1)
        self.count += 1
        if self.count > LARGEST or depth > DEEPEST:
            limit = f"{DEEPEST} levels" if depth > DEEPEST else f"{LARGEST} values"
            raise Problem(f"has more than {limit}", where=str(position))
        if node.id == "scalar":
            # As text, which is how netplan reads it: for YAML 1.1, `52:54:00:12:34:56` is a number and `no` a boolean.
            return Value(None if node.tag.endswith(":null") else node.value, position)
        if node.id == "sequence":
            return Value(tuple(self.value(item, depth + 1) for item in node.value), position)
        self.loader.flatten_mapping(node)
        entries: dict[str, tuple[Position, Value]] = {}
        for key, item in node.value:
            name = key.value if key.id == "scalar" else "?"
            place = Position(key.start_mark.line + 1, key.start_mark.column + 1)
            if name in entries:
                other = entries[name][0]
                raise Problem(f"`{name}` is there twice", where=str(place), hint=f"the other is at line {other.line}")
            entries[name] = (place, self.value(item, depth + 1))
        return Value(entries, position)


class Writer:
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
    """JSON that is YAML too, which wants some characters escaped and takes no surrogates (YAML 1.1, 5.1)."""
    text = json.dumps(data, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match.group()):04x}", text)


def place(data: Any, position: Position) -> Value:
    """Plain data as a value, everything in it at one position."""
    if isinstance(data, dict):
        return Value({name: (position, place(item, position)) for name, item in data.items()}, position)
    if isinstance(data, list | tuple):
        return Value(tuple(place(item, position) for item in data), position)
    return Value(data, position)
