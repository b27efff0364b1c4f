"""Checks SSH public keys (authorized_keys(5))."""

import base64
import binascii
import re

# Type of a key -> how many strings it has, the type itself included.
TYPES = {
    "ssh-ed25519": 2,
    "ssh-rsa": 3,
    "ecdsa-sha2-nistp256": 3,
    "ecdsa-sha2-nistp384": 3,
    "ecdsa-sha2-nistp521": 3,
    "sk-ssh-ed25519@openssh.com": 3,
    "sk-ecdsa-sha2-nistp256@openssh.com": 4,
}
# Options of authorized_keys, in lower case. sshd ignores a key with any other.
WORDS = re.compile(
    "cert-authority|restrict|(no-)?(agent-forwarding|port-forwarding|pty|touch-required|user-rc|verify-required"
    "|x11-forwarding)"
)
SETTINGS = ("command", "environment", "expiry-time", "from", "permitlisten", "permitopen", "principals", "tunnel")
OPTION = re.compile(r'([A-Za-z0-9-]+)(="((?:[^"\\]|\\.)*)")?(,|$)')


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
        return f"it has no key type, such as {next(iter(TYPES))}"
    if offset and not are_options(line.partition(fields[offset])[0].strip()):
        return "the text before the key type is not a list of options of authorized_keys"
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
    if not has_strings(blob, TYPES[fields[offset]]):
        return "the key is damaged: its parts do not fill it"
    return None


def are_options(text: str) -> bool:
    """Whether `text` is a list of options that sshd knows."""
    while text:
        match = OPTION.match(text)
        if match is None or (match[4] and match.end() == len(text)):
            return False
        name = match[1].lower()
        if not (name in SETTINGS if match[2] else WORDS.fullmatch(name)):
            return False
        text = text[match.end() :]
    return True


def has_strings(blob: bytes, count: int) -> bool:
    """Whether `blob` consists of `count` strings (RFC 4251, section 5)."""
    for _ in range(count):
        if len(blob) < 4 or len(blob) - 4 < (length := int.from_bytes(blob[:4], "big")):
            return False
        blob = blob[4 + length :]
    return not blob
