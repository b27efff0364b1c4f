"""User-data and vendor-data in all formats of cloud-init (its documentation, "User-data formats")."""

import email
import email.message
import zlib
from dataclasses import dataclass, field
from typing import Any

from osbuild.shared.json_text import parse_json
from osbuild.shared.quoting import quoted, redacted_beginning
from osbuild.shared.seed import document
from osbuild.shared.seed.limits import BOUNDARIES, HEADERS, UNPACKED, SeedBudget
from osbuild.shared.seed.refused import SeedRefused

GZIP = b"\x1f\x8b"
LEVELS = 5  # of nested parts
MULTIPARTS = 32  # levels of MIME messages within each other, which are parsed by recursion
FIRST_LINES = {
    "## template: jinja": "text/jinja2",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-config": "text/cloud-config",
    "#cloud-boothook": "text/cloud-boothook",
    "#part-handler": "text/part-handler",
    "#include": "text/x-include-url",
    "#!": "text/x-shellscript",
}
# MIME types for which cloud-init detects the format by the first line.
BY_START = ("text/plain", "text/x-not-multipart", "application/octet-stream", "application/x-gzip", "application/gzip")
HANDLER, SCRIPT = "text/part-handler", "text/x-shellscript"
RUN = ("text/cloud-boothook", HANDLER)
INCLUDES = ("text/x-include-url", "text/x-include-once-url")
MESSAGE, ARCHIVE = "multipart/mixed", "text/cloud-config-archive"
UNREACHABLE = "`#include` is not followed: the network is not available when the seed is applied"


@dataclass
class UserDataContent:
    """The keys of all cloud-configs of a file, and warnings about parts without effect.

    `single`: the file is one cloud-config. `template`: a part is a template that cloud-init renders on the node.
    `odd_key`: a key of the cloud-config is not text in YAML. `has_unsafe_parts`: see `unsafe_parts`. `handlers`: a part
    is a handler for parts of other types. `budget` is what the rest of the seed may use.
    """

    config: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    single: bool = False
    template: bool = False
    has_unsafe_parts: bool = False
    odd_key: bool = False
    handlers: bool = False
    budget: SeedBudget = field(default_factory=SeedBudget)


def inspect_user_data(data: bytes, name: str, budget: SeedBudget | None = None) -> UserDataContent:
    """Check all parts of a file and return its content. Raises `SeedRefused` with part, line and column.

    `budget` is shared by all files of a seed.
    """
    content = UserDataContent(budget=budget or SeedBudget())
    inspect_part(data, "", name, content)
    return content


def inspect_part(data: bytes, kind: str, name: str, content: UserDataContent, level: int = 0) -> None:
    """Check one part and add it to `content`. `kind` is its MIME type; empty if its first line decides."""
    if level > LEVELS:
        raise SeedRefused(f"{name} has more than {LEVELS} levels of nested parts")
    if data.startswith(GZIP):
        data = decompress(data, name)
        content.budget.take_unpacked(len(data), name)
    if not data.strip():
        return
    kind = kind_of(data, kind)
    if kind == MESSAGE:
        inspect_message(parse_message(data, name), name, content, level)
        return
    if kind in RUN or kind.startswith(SCRIPT):
        content.handlers |= kind == HANDLER
        return  # scripts are not checked
    if level and not has_effect(kind) and kind not in INCLUDES:
        content.has_unsafe_parts |= not content.handlers
        content.warnings += [] if content.handlers else [f"{name}: cloud-init does not support the type {quoted(kind)}"]
        return
    content.budget.take_text(len(data), name)
    text = document.decode_text(data, name)
    if kind == "text/cloud-config":
        parsed = document.load_yaml(text, name)
        content.budget.take_values(parsed.size, name)
        content.config |= parsed.mapping(name)
        content.warnings += parsed.repeated
        content.single, content.odd_key = level == 0, bool(parsed.odd_key)
        if parsed.odd_key and level:  # it makes cloud-init fail, and a part cannot be rewritten
            raise SeedRefused(f"{name}, {parsed.odd_key}: this key is not a text; put it in quotes")
    elif kind == ARCHIVE:
        inspect_archive(text, name, content, level)
    elif kind == "text/cloud-config-jsonp":
        inspect_patch(text, name)
    elif kind in INCLUDES:
        if not level:
            raise SeedRefused(f"{name}: {UNREACHABLE}")
        content.has_unsafe_parts = True
        content.warnings.append(f"{name}: {UNREACHABLE}")
    elif kind == "text/jinja2":
        content.template = True
    else:
        first = redacted_beginning(text.lstrip().partition("\n")[0])
        raise SeedRefused(
            f"{name}, line 1: begins with {first!r}; it must begin with `#cloud-config`, `#!` or MIME headers"
        )


def has_effect(kind: str) -> bool:
    """Whether a part of this type has an effect."""
    return (kind in FIRST_LINES.values() and kind not in INCLUDES) or kind.startswith(SCRIPT)


def kind_of(data: bytes, kind: str) -> str:
    """The MIME type of an uncompressed part: `kind`, or the type that its first line indicates."""
    if not kind and b"mime-version:" in data[:4096].lower():
        return MESSAGE
    if kind and kind not in BY_START:
        return kind
    start = data[:4096].decode("utf-8-sig", errors="replace").lstrip().lower()
    return next((detected for first, detected in FIRST_LINES.items() if start.startswith(first)), kind)


def decompress(data: bytes, name: str) -> bytes:
    """Uncompress gzip data (RFC 1952); other data are unchanged. Raises `SeedRefused`."""
    if not data.startswith(GZIP):
        return data
    expander = zlib.decompressobj(wbits=31)
    try:
        plain = expander.decompress(data, UNPACKED + 1)
    except zlib.error as error:
        raise SeedRefused(f"{name}: damaged gzip data: {error}") from None
    if len(plain) > UNPACKED:
        raise SeedRefused(f"{name}: gzip data is too large: a seed may have {UNPACKED // 2**20} MiB in total")
    if not expander.eof:
        raise SeedRefused(f"{name}: gzip data is truncated")
    return plain


def parse_message(data: bytes, name: str) -> email.message.Message:
    """Parse a MIME message (RFC 2046). Raises `SeedRefused` if it has too many parts or is nested too deeply."""
    if data.count(b"\n--") + data.count(b"\r--") > BOUNDARIES:
        raise SeedRefused(f"{name} has more than {BOUNDARIES} lines that begin with `--`")
    level = 0
    try:
        message = email.message_from_bytes(data)
        parts = [message]
        while parts and level <= MULTIPARTS:
            payloads = (inner for part in parts for inner in part.get_payload())
            parts = [inner for inner in payloads if isinstance(inner, email.message.Message)]
            level += 1
    except RecursionError:
        level = MULTIPARTS + 1
    if level > MULTIPARTS:
        raise SeedRefused(f"{name} has more than {MULTIPARTS} levels of nested MIME messages")
    return message


def inspect_message(message: email.message.Message, name: str, content: UserDataContent, level: int) -> None:
    """Check each part of a MIME message (RFC 2046)."""
    if any(sum(len(str(value)) for _, value in part.raw_items()) > HEADERS for part in message.walk()):
        raise SeedRefused(f"{name} has a part with MIME headers of more than {HEADERS // 1024} KiB")
    if message.is_multipart() and not message.get_payload():
        raise SeedRefused(f"{name}: a MIME message without parts")
    for number, part in enumerate((part for part in message.walk() if not part.is_multipart()), 1):
        part_name = f"{name}, part {number}" + (f" ({quoted(part.get_filename())})" if part.get_filename() else "")
        payload = part.get_payload(decode=True)
        kind = part.get_content_type()
        if kind in BY_START:
            kind = "text/plain"
        if isinstance(payload, bytes):
            inspect_part(payload, kind, part_name, content, level + 1)


def inspect_archive(text: str, name: str, content: UserDataContent, level: int) -> None:
    """Check each part of a cloud-config-archive."""
    parsed = document.load_yaml(text, name)
    content.budget.take_values(parsed.size, name)
    value = parsed.value
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
    """Check that a cloud-config-jsonp (RFC 6902) is JSON. Raises `SeedRefused`."""
    body = text.lstrip().partition("\n")[2]
    try:
        parse_json(body)
    except ValueError as error:
        raise SeedRefused(f"{name}: {error}") from None
