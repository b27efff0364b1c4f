"""Removes parts of user-data that cloud-init must not read.

cloud-init stops if it cannot fetch an `#include`. It also logs the beginning of a part of unknown type, which may
contain a secret.
"""

import email
from email.message import Message

from osbuild.agent.seed import user_data
from osbuild.shared.pyyaml import import_yaml


def remove_unsafe_parts(data: bytes) -> bytes:
    """Remove these parts from a MIME message or archive. Other formats are unchanged. `data` was inspected already."""
    data = user_data.decompress(data, "user-data")
    kind = user_data.kind_of(data, "")
    if kind == user_data.MESSAGE:
        message = email.message_from_bytes(data)
        for part in message.walk():
            if not part.is_multipart():
                empty_unsafe_part(part)
        return message.as_bytes()
    if kind == user_data.ARCHIVE:
        entries = import_yaml().safe_load(data)
        safe_entries = [
            entry for entry in entries if user_data.has_effect(user_data.kind_of(*user_data.entry_of(entry)))
        ]
        return b"#cloud-config-archive\n" + str(import_yaml().safe_dump(safe_entries, allow_unicode=True)).encode()
    return data


def empty_unsafe_part(part: Message) -> None:
    """Empty an unsafe part of a MIME message, or remove the unsafe parts of an archive in it."""
    payload = part.get_payload(decode=True)
    plain = user_data.decompress(payload, "user-data") if isinstance(payload, bytes) else b""
    kind = user_data.kind_of(plain, part.get_content_type())
    safe = remove_unsafe_parts(plain) if kind == user_data.ARCHIVE else plain if user_data.has_effect(kind) else b""
    if safe != plain:
        del part["Content-Transfer-Encoding"]
        part.set_type("text/plain" if not safe else kind)
        part.set_payload(safe, "utf-8")
