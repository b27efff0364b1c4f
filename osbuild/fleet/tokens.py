"""Secret tokens: how they are made, and what is stored of them."""

import hashlib
import secrets


def make_token(prefix: str) -> str:
    """Return a new random token of 256 bits. Its prefix says what it is for, so that a leaked one is recognized."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def hash_token(token: str) -> bytes:
    """Return what is stored of a token. Tokens are random and long, so that no slow hash is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
