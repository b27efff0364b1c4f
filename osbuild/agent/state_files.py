"""Files that the agent stores on the data partition, which a bad disk or a power cut may have damaged.

A damaged file is reported, renamed to NAME.damaged and treated as missing, so that the agent continues.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from osbuild.agent.system import System
from osbuild.shared.files import read_file, set_aside, write_file
from osbuild.shared.json_text import parse_json

Row = dict[str, Any]
Types = Mapping[str, type | tuple[type, ...]]


class DamagedFile(Exception):
    """A file is not readable or not valid. The message says why."""


def read_if_present(path: Path, *, links: bool = True) -> bytes | None:
    """The contents of a file; None if it is missing or this user may not read it. Raises `DamagedFile`."""
    try:
        return read_file(path, links=links)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except OSError as error:
        raise DamagedFile(error.strerror or str(error)) from error


def read_text(system: System, name: str, valid: Callable[[str], bool] = bool) -> str:
    """The text of a file, stripped of white space; empty if the file is missing or its text is not `valid`."""
    return read_text_file(system.path(name), valid)


def read_text_file(path: Path, valid: Callable[[str], bool] = bool, *, secret: bool = False) -> str:
    """Like `read_text`, for a path. A `secret` is not shown in the report of damage."""
    try:
        data = read_if_present(path)
        if data is None:
            return ""
        text = decode_text(data).strip()
        if not valid(text):
            raise DamagedFile("empty" if not text else "not valid" if secret else f"{text[:40]!r} is not valid")
    except DamagedFile as error:
        report_damage(path, str(error))
        return ""
    return text


def read_object(
    system: System, name: str, types: Types | None = None, required: Sequence[str] = (), *, links: bool = True
) -> Row:
    """A JSON object; empty if it is missing, a field does not have its type, or a `required` field is missing.

    A field that is not required may be null. Unknown fields are kept, because another version of the agent may use
    them. Without `links`, a symbolic link is damage: for files in folders of other users.
    """
    path = system.path(name)
    try:
        data = read_if_present(path, links=links)
        return {} if data is None else parse_object(data, types or {}, required)
    except DamagedFile as error:
        report_damage(path, str(error))
        return {}


def read_lines(system: System, name: str, types: Types | None = None) -> list[Row]:
    """The objects of a file with one JSON object per line.

    If lines are damaged, the file is renamed to NAME.damaged and written again without them.
    """
    path = system.path(name)
    rows: list[Row] = []
    damaged: list[str] = []
    try:
        lines = (read_if_present(path) or b"").splitlines()
    except DamagedFile as error:
        report_damage(path, str(error))
        return []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(parse_object(line, types or {}))
        except DamagedFile as error:
            damaged.append(f"line {number}: {error}")
    if damaged and report_damage(path, "; ".join(damaged[:3])):
        write_lines(path, rows)
    return rows


def write_lines(path: Path, rows: Sequence[Row]) -> None:
    """Write the valid lines of a damaged file. A failure is reported, not raised."""
    try:
        write_file(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows), 0o600)
    except OSError as error:
        print(f"edge-agent: {path}: its valid lines cannot be written: {error.strerror}", file=sys.stderr)


def parse_object(data: bytes, types: Types, required: Sequence[str] = ()) -> Row:
    """A JSON object whose fields have `types`. Raises `DamagedFile`."""
    try:
        row = parse_json(decode_text(data))
    except ValueError as error:
        raise DamagedFile(f"not JSON: {error}" if data.strip(b"\0") else "empty" if not data else "zeros") from error
    if not isinstance(row, dict):
        raise DamagedFile("not a JSON object")
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:  # JSON may contain a lone surrogate, which no terminal can print
        raise DamagedFile("not Unicode") from error
    for name, kind in types.items():
        if row.get(name) is not None and not isinstance(row[name], kind):
            raise DamagedFile(f"`{name}` is {str(row[name])[:40]!r}")
    if missing := [name for name in required if row.get(name) is None]:
        raise DamagedFile(f"it has no `{missing[0]}`")
    return row


def decode_text(data: bytes) -> str:
    """UTF-8 text. Raises `DamagedFile`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise DamagedFile("not UTF-8") from error


def report_damage(path: Path, reason: str) -> bool:
    """Report a damaged file and rename it to NAME.damaged. Returns whether the rename succeeded."""
    aside = None
    try:
        aside = set_aside(path)
    except OSError as error:
        reason = f"{reason}; it cannot be renamed: {error.strerror}"
    printable = os.fsencode(str(path)).decode(errors="replace")
    print(
        f"edge-agent: {printable} is damaged: {reason}" + (f"; kept as {aside.name}" if aside else ""), file=sys.stderr
    )
    return aside is not None
