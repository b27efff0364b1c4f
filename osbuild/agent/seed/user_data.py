"""User-data and vendor-data in each of cloud-init's formats (its documentation, "User-data formats")."""

import email
import email.message
import json
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from osbuild.shared.quoting import quoted
from osbuild.shared.seed import document
from osbuild.shared.seed.refused import SeedRefused

GZIP = b"\x1f\x8b"
LIMIT = 16 * 2**20  # bytes after decompression
LEVELS = 5  # of parts within parts
STARTS = {
    "## template: jinja": "text/jinja2",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-config": "text/cloud-config",
    "#cloud-boothook": "text/cloud-boothook",
    "#part-handler": "text/part-handler",
    "#include": "text/x-include-url",
    "#!": "text/x-shellscript",
}
# Formats of which cloud-init decides by the first line what they are.
BY_START = ("text/plain", "text/x-not-multipart", "application/octet-stream", "application/x-gzip", "application/gzip")
HANDLER, SCRIPT = "text/part-handler", "text/x-shellscript"
RUN = ("text/cloud-boothook", HANDLER)
INCLUDES = ("text/x-include-url", "text/x-include-once-url")
MESSAGE, ARCHIVE = "multipart/mixed", "text/cloud-config-archive"
UNREACHABLE = "`#include` is not followed, since a node is configured before it has a network"


@dataclass
class UserDataContent:
    """What a file has: the keys of its cloud-configs, and warnings about parts that have no effect.

    `single`: it is one cloud-config and nothing else. `template`: a part of it is complete only on the node.
    `odd_key`: a key of the cloud-config is no text for YAML. `left_out`: cloud-init must not be shown a part of it.
    `handlers`: a part of it defines what other types are for.
    """

    config: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    single: bool = False
    template: bool = False
    left_out: bool = False
    odd_key: bool = False
    handlers: bool = False


def inspect_user_data(data: bytes, name: str) -> UserDataContent:
    """Check a file whole, and return what is in it. Raises `Refused` with the part, line and column."""
    content = UserDataContent()
    inspect_part(data, "", name, content)
    return content


def inspect_part(data: bytes, kind: str, name: str, content: UserDataContent, level: int = 0) -> None:
    """Check one part of the MIME type `kind`, or of the type that its first line says."""
    if level > LEVELS:
        raise SeedRefused(f"{name} has parts within parts more than {LEVELS} levels deep")
    data = decompress(data, name)
    if not data.strip():
        return
    kind = kind_of(data, kind)
    if kind == MESSAGE:
        inspect_message(email.message_from_bytes(data), name, content, level)
        return
    if kind in RUN or kind.startswith(SCRIPT):
        content.handlers |= kind == HANDLER
        return  # a script is its author's
    if level and not useful(kind) and kind not in INCLUDES:
        content.left_out |= not content.handlers
        content.warnings += [] if content.handlers else [f"{name}: cloud-init has no use for the type {quoted(kind)}"]
        return
    text = document.decode_text(data, name)
    if kind == "text/cloud-config":
        found = document.load_yaml(text, name)
        content.config |= found.mapping(name)
        content.warnings += found.repeated
        content.single, content.odd_key = level == 0, bool(found.odd_key)
        if found.odd_key and level:  # cloud-init fails at such a key beside others; here it can't be written anew
            raise SeedRefused(f"{name}, {found.odd_key}: this key is not a text: put it in quotes")
    elif kind == ARCHIVE:
        inspect_archive(text, name, content, level)
    elif kind == "text/cloud-config-jsonp":
        inspect_patch(text, name)
    elif kind in INCLUDES:
        if not level:
            raise SeedRefused(f"{name}: {UNREACHABLE}")
        content.left_out = True
        content.warnings.append(f"{name}: {UNREACHABLE}")
    elif kind == "text/jinja2":
        content.template = True
    else:
        first = beginning(text.lstrip().partition("\n")[0])
        raise SeedRefused(
            f"{name}, line 1: begins with {first!r}; it must begin with `#cloud-config`, `#!` or MIME headers"
        )


def useful(kind: str) -> bool:
    """Whether a part of this type has an effect."""
    return (kind in STARTS.values() and kind not in INCLUDES) or kind.startswith(SCRIPT)


def beginning(line: str) -> str:
    """The beginning of a line for a message, without what may be a secret."""
    if line.startswith("#"):
        return line[:40]
    match = re.match(r"[\w-]{1,40}(?=:( |$))", line)
    return f"{match.group()}:…" if match else "…" if line else ""


def kind_of(data: bytes, kind: str) -> str:
    """The type of a part: `kind`, or what its beginning says. `data` is not compressed."""
    if not kind and b"mime-version:" in data[:4096].lower():
        return MESSAGE
    if kind and kind not in BY_START:
        return kind
    start = data[:4096].decode("utf-8-sig", errors="replace").lstrip().lower()
    return next((named for sign, named in STARTS.items() if start.startswith(sign)), kind)


def decompress(data: bytes, name: str) -> bytes:
    """Data without gzip (RFC 1952). Raises `Refused`."""
    if not data.startswith(GZIP):
        return data
    expander = zlib.decompressobj(wbits=31)
    try:
        plain = expander.decompress(data, LIMIT)
    except zlib.error as error:
        raise SeedRefused(f"{name}: damaged gzip data: {error}") from None
    if not expander.eof:
        raise SeedRefused(f"{name}: gzip data is {'too large' if len(plain) >= LIMIT else 'cut off'}")
    return plain


def inspect_message(message: email.message.Message, name: str, content: UserDataContent, level: int) -> None:
    """Check each part of a MIME message (RFC 2046)."""
    if message.is_multipart() and not message.get_payload():
        raise SeedRefused(f"{name}: a MIME message without parts")
    for number, part in enumerate((part for part in message.walk() if not part.is_multipart()), 1):
        where = f"{name}, part {number}" + (f" ({quoted(part.get_filename())})" if part.get_filename() else "")
        payload = part.get_payload(decode=True)
        kind = part.get_content_type()
        if kind in BY_START:
            kind = "text/plain"
        if isinstance(payload, bytes):
            inspect_part(payload, kind, where, content, level + 1)


def inspect_archive(text: str, name: str, content: UserDataContent, level: int) -> None:
    """Check each part of a cloud-config-archive."""
    value = document.load_yaml(text, name).value
    if not isinstance(value, list):
        raise SeedRefused(f"{name}, line 1: a cloud-config-archive must be a list")
    for number, entry in enumerate(value, 1):
        data, kind = entry_of(entry)
        inspect_part(data, kind, f"{name}, part {number}", content, level + 1)


def entry_of(entry: object) -> tuple[bytes, str]:
    """The data and the type of an entry of a cloud-config-archive."""
    body, kind = entry if isinstance(entry, str) else "", ""
    if isinstance(entry, dict):
        body, kind = entry.get("content") or "", str(entry.get("type") or "")
    return body if isinstance(body, bytes) else str(body).encode(), kind or "text/plain"


def inspect_patch(text: str, name: str) -> None:
    """Check that a cloud-config-jsonp (RFC 6902) can be read."""
    body = text.lstrip().partition("\n")[2]
    try:
        json.loads(body)
    except ValueError as error:
        raise SeedRefused(f"{name}: {error}") from None
