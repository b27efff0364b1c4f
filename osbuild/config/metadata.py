"""Helpers for tables of keys: metadata of a key, and value types that YAML does not have."""

from typing import Any

# The form of a reference to a secret or another file.
REFERENCE = r"^(file:[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+|env:[A-Za-z_][A-Za-z0-9_]*)$"


def key(help: str, **limits: Any) -> dict[str, Any]:
    """Metadata of one key."""
    return {"help": help, **limits}


class Size(int):
    """Bytes; in YAML a whole number of MiB or GiB, such as `512 MiB`."""


class SecretRef(str):
    """A reference to a secret, never the secret itself: `file:PATH` (relative to the profile) or `env:NAME`."""
