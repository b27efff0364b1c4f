"""SSH public keys as authorized_keys(5) has them."""

import base64
import binascii
import re

TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)


def public_key_problem(line: str) -> str | None:
    """Say why `line` is no public key in OpenSSH's format, with or without options before it; None if it is one.

    The encoded key repeats its type as a string with a length before it (RFC 4253, section 6.6). What is
    returned never quotes the line, which may be a private key in the wrong place.
    """
    if "PRIVATE KEY" in line:
        return "this is a private key"
    fields = line.split()
    offset = next((number for number, word in enumerate(fields) if word in TYPES), None)
    if offset is None:
        return f"no key type in it, such as {TYPES[0]}"
    if offset and not re.match(r'^[A-Za-z-]+(=".*")?(,|$)', " ".join(fields[:offset])):
        return "what stands before the key type is no option of authorized_keys"
    if offset + 1 == len(fields):
        return "the key itself is missing after its type"
    try:
        blob = base64.b64decode(fields[offset + 1], validate=True)
    except (binascii.Error, ValueError):
        return "the key is cut short, or not base64"
    name = fields[offset].encode()
    if blob[:4] != len(name).to_bytes(4, "big") or blob[4 : 4 + len(name)] != name:
        return f"the key is not of the type {fields[offset]}, or damaged"
    if len(blob) < len(name) + 4 + 4 + 32:
        return "the key is cut short"
    return None
