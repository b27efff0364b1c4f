"""Checks SSH public keys (authorized_keys(5))."""

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
    """Return why `line` is not a public key in OpenSSH's format, with optional options; None if it is one.

    The encoded key repeats its type as a string with a length (RFC 4253, section 6.6). The result never quotes the
    line, which may be a private key.
    """
    if "PRIVATE KEY" in line:
        return "this is a private key"
    fields = line.split()
    offset = next((number for number, word in enumerate(fields) if word in TYPES), None)
    if offset is None:
        return f"it has no key type, such as {TYPES[0]}"
    if offset and not re.match(r'^[A-Za-z-]+(=".*")?(,|$)', " ".join(fields[:offset])):
        return "the text before the key type is not an option of authorized_keys"
    if offset + 1 == len(fields):
        return "the key itself is missing after its type"
    try:
        blob = base64.b64decode(fields[offset + 1], validate=True)
    except (binascii.Error, ValueError):
        return "the key is truncated, or not base64"
    name = fields[offset].encode()
    if blob[:4] != len(name).to_bytes(4, "big") or blob[4 : 4 + len(name)] != name:
        return f"the key is not of the type {fields[offset]}, or damaged"
    if len(blob) < len(name) + 4 + 4 + 32:
        return "the key is truncated"
    return None
