"""`#include` parts of user-data, which are left out: cloud-init would end where it can't fetch one."""

import email
from email.message import Message

from osbuild.agent.pyyaml import library
from osbuild.agent.seed import userdata


def without(data: bytes) -> bytes:
    """MIME messages and archives without the parts that name URLs. `data` was inspected; other formats stay."""
    data = userdata.decompress(data, "user-data")
    kind = userdata.kind_of(data, "")
    if kind == userdata.MESSAGE:
        message = email.message_from_bytes(data)
        for part in message.walk():
            if not part.is_multipart():
                strip(part)
        return message.as_bytes()
    if kind == userdata.ARCHIVE:
        entries = library().safe_load(data)
        kept = [entry for entry in entries if not included(entry)]
        return b"#cloud-config-archive\n" + str(library().safe_dump(kept, allow_unicode=True)).encode()
    return data


def strip(part: Message) -> None:
    """Empty a part that names URLs; do the same inside an archive."""
    payload = part.get_payload(decode=True)
    plain = userdata.decompress(payload, "user-data") if isinstance(payload, bytes) else b""
    kind = userdata.kind_of(plain, part.get_content_type())
    kept = b"" if kind in userdata.INCLUDES else without(plain) if kind == userdata.ARCHIVE else plain
    if kept != plain:
        del part["Content-Transfer-Encoding"]
        part.set_type("text/plain" if not kept else kind)
        part.set_payload(kept, "utf-8")


def included(entry: object) -> bool:
    """Whether an entry of an archive names URLs."""
    body, kind = userdata.entry_of(entry)
    return userdata.kind_of(body, kind) in userdata.INCLUDES
