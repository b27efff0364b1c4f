"""Parts of user-data that cloud-init is not shown.

It would end where it can't fetch an `#include`, and it quotes the beginning of a part whose type it does not know.
"""

import email
from email.message import Message

from osbuild.agent.seed import user_data
from osbuild.shared.pyyaml import import_yaml


def without(data: bytes) -> bytes:
    """MIME messages and archives without such parts. `data` was inspected; other formats stay as they are."""
    data = user_data.decompress(data, "user-data")
    kind = user_data.kind_of(data, "")
    if kind == user_data.MESSAGE:
        message = email.message_from_bytes(data)
        for part in message.walk():
            if not part.is_multipart():
                strip(part)
        return message.as_bytes()
    if kind == user_data.ARCHIVE:
        entries = import_yaml().safe_load(data)
        kept = [entry for entry in entries if user_data.useful(user_data.kind_of(*user_data.entry_of(entry)))]
        return b"#cloud-config-archive\n" + str(import_yaml().safe_dump(kept, allow_unicode=True)).encode()
    return data


def strip(part: Message) -> None:
    """Empty a part that is left out; do the same inside an archive."""
    payload = part.get_payload(decode=True)
    plain = user_data.decompress(payload, "user-data") if isinstance(payload, bytes) else b""
    kind = user_data.kind_of(plain, part.get_content_type())
    kept = without(plain) if kind == user_data.ARCHIVE else plain if user_data.useful(kind) else b""
    if kept != plain:
        del part["Content-Transfer-Encoding"]
        part.set_type("text/plain" if not kept else kind)
        part.set_payload(kept, "utf-8")
