"""Hashes of passwords, as crypt(5) of Debian's libxcrypt writes them."""

import re

HASHES = (
    r"\$g?y\$[./A-Za-z0-9]+\$[./A-Za-z0-9]{1,86}\$[./A-Za-z0-9]{43}",
    r"\$7\$[./A-Za-z0-9]{11}[^\s:*!;\\$]{0,43}\$[./A-Za-z0-9]{43}",
    r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}",
    r"\$6\$(rounds=[0-9]{1,9}\$)?[^\s:*!;\\$]{1,16}\$[./A-Za-z0-9]{86}",
    r"\$5\$(rounds=[0-9]{1,9}\$)?[^\s:*!;\\$]{1,16}\$[./A-Za-z0-9]{43}",
)


def password_problem(text: str) -> str | None:
    """Say why `text` is not a whole hash that Debian accepts; None if it is one. Never quotes it."""
    if any(re.fullmatch(pattern, text) for pattern in HASHES):
        return None
    if re.match(r"\$(y|gy|7|2[aby]|6|5)\$", text):
        return "it is cut short, or has other characters than a hash (did a shell replace what follows a `$`?)"
    if re.match(r"\$[0-9a-z]+\$", text):
        return "the kind of hash is too weak, or unknown to Debian"
    return "this is not the hash of a password"
