"""Files that the agent keeps over a boot, read as a disk may return them.

What is damaged is reported, set aside as NAME.damaged, and counts as missing, so that the agent goes on.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osbuild.agent.system import System, read_file, set_aside, write

Row = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]


class Damaged(Exception):
    """Why a file is not what it should be."""


def contents(path: Path) -> bytes | None:
    """What is in a file; None where there is none, or this user may not read it. Raises `Damaged`."""
    try:
        return read_file(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error


def text(system: System, name: str, valid: Callable[[str], bool] = bool) -> str:
    """A short text, blanks around it removed; empty where there is none, or it is not `valid`."""
    path = system.path(name)
    try:
        data = contents(path)
        if data is None:
            return ""
        found = decoded(data).strip()
        if not valid(found):
            raise Damaged(f"{found[:40]!r} makes no sense")
    except Damaged as error:
        report(path, str(error))
        return ""
    return found


def row(system: System, name: str, types: Types | None = None, required: Sequence[str] = ()) -> Row:
    """A JSON object; empty where there is none, or its fields don't have `types` or lack one that is `required`.

    A field may also be null unless it is required. Other fields are kept: another version of the agent may know them.
    """
    path = system.path(name)
    try:
        data = contents(path)
        return {} if data is None else parsed(data, types or {}, required)
    except Damaged as error:
        report(path, str(error))
        return {}


def rows(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one a line. Lines that are damaged are left out of it, and the file is set aside."""
    path = system.path(name)
    found: list[Row] = []
    damaged: list[str] = []
    try:
        lines = (contents(path) or b"").splitlines()
    except Damaged as error:
        report(path, str(error))
        return []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parsed(line, types or {}))
        except Damaged as error:
            damaged.append(f"line {number}: {error}")
    if damaged and report(path, "; ".join(damaged[:3])):
        write_rows(path, found)
    return found


def write_rows(path: Path, kept: Sequence[Row]) -> None:
    """Write the lines that are good back to a file that was set aside; a disk that takes none is reported."""
    try:
        write(path, b"".join(json.dumps(each).encode() + b"\n" for each in kept), 0o600)
    except OSError as error:
        print(f"edge-agent: {path}: its good lines can't be written: {error.strerror}", file=sys.stderr)


def parsed(data: bytes, types: Types, required: Sequence[str] = ()) -> Row:
    """A JSON object with fields of `types`. Raises `Damaged`."""
    try:
        found = json.loads(decoded(data))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not JSON: {error}" if data.strip(b"\0") else "empty" if not data else "zeros") from error
    if not isinstance(found, dict):
        raise Damaged("not a JSON object")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # JSON may escape half a character, which no terminal takes
        raise Damaged("not Unicode") from error
    for name, kind in types.items():
        if found.get(name) is not None and not isinstance(found[name], kind):
            raise Damaged(f"`{name}` is {str(found[name])[:40]!r}")
    if lacking := [name for name in required if found.get(name) is None]:
        raise Damaged(f"it has no `{lacking[0]}`")
    return found


def decoded(data: bytes) -> str:
    """UTF-8 text. Raises `Damaged`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Damaged("not UTF-8") from error


def report(path: Path, why: str) -> bool:
    """Say what is damaged, and set it aside; whether that could be done."""
    aside = None
    try:
        aside = set_aside(path)
    except OSError as error:
        why = f"{why}; it can't be set aside: {error.strerror}"
    printable = os.fsencode(str(path)).decode(errors="replace")
    print(f"edge-agent: {printable} is damaged: {why}" + (f"; kept as {aside.name}" if aside else ""), file=sys.stderr)
    return aside is not None
