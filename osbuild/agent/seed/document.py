"""The YAML of a seed as cloud-init reads it."""

import json
from typing import Any

from osbuild.agent.pyyaml import library
from osbuild.agent.seed.refused import Refused

DEPTH = 60  # levels; cloud-init walks its configuration recursively and fails at some hundreds
NODES = 200_000  # values after aliases are followed: a few lines of aliases can stand for billions


def decode(data: bytes, name: str) -> str:
    """The text of a file in UTF-8, without a byte order mark. Raises `Refused`."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused(f"{name} is UTF-16: save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise Refused(f"{name}, line {line}, column {column}: not UTF-8") from None
    if (place := text.find("\0")) >= 0:
        raise Refused(f"{name}, {position(text, place)}: not text")
    return text


def position(text: str, index: int) -> str:
    """Line and column, from 1, of the character at `index`."""
    return f"line {text.count(chr(10), 0, index) + 1}, column {index - text.rfind(chr(10), 0, index)}"


def load(text: str, name: str) -> Any:
    """The value of a YAML document. Raises `Refused` with line and column."""
    yaml = library()
    try:
        value = yaml.load(text, Loader=yaml.SafeLoader)
    except yaml.reader.ReaderError as error:
        raise Refused(f"{name}, {position(text, error.position)}: this character is not allowed in YAML") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise Refused(f"{name}{where}: {error.problem or error.context}") from None
    except RecursionError:
        raise Refused(f"{name} is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise Refused(f"{name}: {' '.join(str(error).split())}") from None
    measure(value, name)
    return value


def mapping(text: str, name: str) -> dict[str, Any]:
    """The same for a document that must be a mapping, or empty."""
    value = load(text, name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(f"{name}, line 1, column 1: expected `key: value` lines, not a {type(value).__name__}")
    return {str(key): entry for key, entry in value.items()}


def write(value: Any) -> str:
    """A value as YAML with every type that `load` has."""
    return str(library().safe_dump(value, allow_unicode=True, sort_keys=False))


def measure(value: Any, name: str) -> None:
    """Raise `Refused` for a value that is too deep, or too large once its aliases are followed."""
    nodes, pending = 0, [(value, 1)]
    while pending:
        one, depth = pending.pop()
        nodes += 1
        if depth > DEPTH:
            raise Refused(f"{name} is nested more than {DEPTH} levels deep")
        if nodes > NODES:
            raise Refused(f"{name} has more than {NODES} values")
        if isinstance(one, dict):
            pending += [(entry, depth + 1) for entry in one.values()]
        elif isinstance(one, list):
            pending += [(entry, depth + 1) for entry in one]


def dump(value: Any) -> bytes:
    """A value as YAML that is also JSON, if it has no other types than JSON has."""
    return json.dumps(value, default=str).encode() + b"\n"
