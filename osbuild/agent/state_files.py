"""Files that the agent keeps over a boot, read as a disk may return them.

What is damaged is reported, set aside as NAME.damaged, and counts as missing, so that the agent goes on.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osbuild.agent.system import System
from osbuild.shared.files import read_file, set_aside, write_file

Row = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]


class DamagedFile(Exception):
    """Why a file is not what it should be."""


def read_if_there(path: Path) -> bytes | None:
    """What is in a file; None where there is none, or this user may not read it. Raises `DamagedFile`."""
    try:
        return read_file(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise DamagedFile(error.strerror or str(error)) from error


def read_text(system: System, name: str, valid: Callable[[str], bool] = bool) -> str:
    """A short text, blanks around it removed; empty where there is none, or it is not `valid`."""
    path = system.path(name)
    try:
        data = read_if_there(path)
        if data is None:
            return ""
        found = decode_text(data).strip()
        if not valid(found):
            raise DamagedFile(f"{found[:40]!r} makes no sense")
    except DamagedFile as error:
        report_damage(path, str(error))
        return ""
    return found


def read_object(system: System, name: str, types: Types | None = None, required: Sequence[str] = ()) -> Row:
    """A JSON object; empty where there is none, or its fields don't have `types` or lack one that is `required`.

    A field may also be null unless it is required. Other fields are kept: another version of the agent may know them.
    """
    path = system.path(name)
    try:
        data = read_if_there(path)
        return {} if data is None else parse_object(data, types or {}, required)
    except DamagedFile as error:
        report_damage(path, str(error))
        return {}


def read_lines(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one a line. Lines that are damaged are left out of it, and the file is set aside."""
    path = system.path(name)
    found: list[Row] = []
    damaged: list[str] = []
    try:
        lines = (read_if_there(path) or b"").splitlines()
    except DamagedFile as error:
        report_damage(path, str(error))
        return []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse_object(line, types or {}))
        except DamagedFile as error:
            damaged.append(f"line {number}: {error}")
    if damaged and report_damage(path, "; ".join(damaged[:3])):
        write_lines(path, found)
    return found


def write_lines(path: Path, kept: Sequence[Row]) -> None:
    """Write the lines that are good back to a file that was set aside; a disk that takes none is reported."""
    try:
        write_file(path, b"".join(json.dumps(each).encode() + b"\n" for each in kept), 0o600)
    except OSError as error:
        print(f"edge-agent: {path}: its good lines can't be written: {error.strerror}", file=sys.stderr)


def parse_object(data: bytes, types: Types, required: Sequence[str] = ()) -> Row:
    """A JSON object with fields of `types`. Raises `DamagedFile`."""
    try:
        found = json.loads(decode_text(data))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"not JSON: {error}" if data.strip(b"\0") else "empty" if not data else "zeros") from error
    if not isinstance(found, dict):
        raise DamagedFile("not a JSON object")
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # JSON may escape half a character, which no terminal takes
        raise DamagedFile("not Unicode") from error
    for name, kind in types.items():
        if found.get(name) is not None and not isinstance(found[name], kind):
            raise DamagedFile(f"`{name}` is {str(found[name])[:40]!r}")
    if lacking := [name for name in required if found.get(name) is None]:
        raise DamagedFile(f"it has no `{lacking[0]}`")
    return found


def decode_text(data: bytes) -> str:
    """UTF-8 text. Raises `DamagedFile`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile("not UTF-8") from error


def report_damage(path: Path, why: str) -> bool:
    """Say what is damaged, and set it aside; whether that could be done."""
    aside = None
    try:
        aside = set_aside(path)
    except OSError as error:
        why = f"{why}; it can't be set aside: {error.strerror}"
    printable = os.fsencode(str(path)).decode(errors="replace")
    print(f"edge-agent: {printable} is damaged: {why}" + (f"; kept as {aside.name}" if aside else ""), file=sys.stderr)
    return aside is not None
