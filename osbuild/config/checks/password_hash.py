"""Checks password hashes, in the formats of crypt(5) of Debian's libxcrypt."""

import re

HASHES = (
    r"\$g?y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}",
    r"\$7\$[./A-Za-z0-9]{11}[^\s:*!;\\$]{0,43}\$[./A-Za-z0-9]{43}",
    r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}",
    r"\$6\$(rounds=[0-9]{1,9}\$)?[^\s:*!;\\$]{1,16}\$[./A-Za-z0-9]{86}",
    r"\$5\$(rounds=[0-9]{1,9}\$)?[^\s:*!;\\$]{1,16}\$[./A-Za-z0-9]{43}",
)


def password_problem(text: str) -> str | None:
    """Return why `text` is not a complete hash that Debian accepts; None if it is one. Never quotes it."""
    if any(re.fullmatch(pattern, text) for pattern in HASHES):
        return None
    if re.match(r"\$(y|gy|7|2[aby]|6|5)\$", text):
        return "it is truncated or has invalid characters (a shell may have replaced text after a `$`)"
    if re.match(r"\$[0-9a-z]+\$", text):
        return "the kind of hash is too weak, or unknown to Debian"
    return "this is not the hash of a password"
