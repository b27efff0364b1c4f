"""Helpers for tables of keys: metadata of a key, and value types that YAML does not have."""

from typing import Any


def key(help: str, **limits: Any) -> dict[str, Any]:
    """Metadata of one key."""
    return {"help": help, **limits}


class Size(int):
    """Bytes; in YAML a whole number of MiB or GiB, such as `512 MiB`."""


class SecretRef(str):
    """A reference to a secret, never the secret itself: `file:PATH` (relative to the profile) or `env:NAME`."""
