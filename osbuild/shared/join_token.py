"""The forms of a join token, which are those of K3s (K3s documentation, "k3s token").

A full token is `K10`, the SHA-256 of the cluster's certificate authority, `::` and `user:password`. A short token is
the password alone. A created token is `id.secret` in place of `user:password` (Kubernetes documentation,
"Authenticating with Bootstrap Tokens"), and may be short too.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass

PREFIX = "K10"
ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
CREATED = re.compile(r"([a-z0-9]{6})\.[a-z0-9]{16}")
FORM = "K10<SHA-256 of the authority>::<user>:<password>"


@dataclass(frozen=True)
class JoinToken:
    """A join token by its parts.

    `password` is the secret; of a created token it is `id.secret`, and `identifier` is the id. `authority` is the
    SHA-256 (hex) of the cluster's certificate authority; it and `user` are empty in a short token.
    """

    password: str
    user: str = ""
    authority: str = ""
    identifier: str = ""


def parse_token(text: str) -> JoinToken:
    """The parts of a token. Raises `ValueError`, without the token in its message."""
    if not text:
        raise ValueError("the join token is empty")
    if not text.startswith(PREFIX):
        return JoinToken(text, identifier=created_identifier(text))
    authority, separator, credentials = text.removeprefix(PREFIX).partition("::")
    if not separator or (authority and not re.fullmatch(r"[0-9a-f]{64}", authority)):
        raise ValueError(f"the join token begins with {PREFIX}, but is not {FORM}: it was not copied completely")
    if identifier := created_identifier(credentials):
        return JoinToken(credentials, authority=authority, identifier=identifier)
    user, separator, password = credentials.partition(":")
    if not separator or not password:
        raise ValueError(f"the join token has no password, expected {FORM}: it was not copied completely")
    return JoinToken(password, user, authority)


def created_identifier(text: str) -> str:
    """The id of a created token `id.secret`; empty for other texts."""
    match = CREATED.fullmatch(text)
    return match[1] if match else ""


def format_token(authority: bytes, credentials: str) -> str:
    """The full token for a certificate authority (a file in PEM) and `user:password` or `id.secret`."""
    return f"{PREFIX}{hash_authority(authority)}::{credentials}"


def hash_authority(authority: bytes) -> str:
    """The SHA-256 (hex) of a file with one certificate in PEM, as K3s computes it."""
    return hashlib.sha256(authority).hexdigest()


def random_text(length: int) -> str:
    """A random text for a part of a created token."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
