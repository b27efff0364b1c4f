"""What the tables of keys are written with: metadata of a key, and the types of values that YAML does not have."""

from typing import Any


def key(help: str, **limits: Any) -> dict[str, Any]:
    """Metadata of one key."""
    return {"help": help, **limits}


class Size(int):
    """Bytes; in YAML a whole number of MiB or GiB, such as `512 MiB`."""


class SecretRef(str):
    """Where a secret is, never the secret: `file:PATH` (relative to the profile) or `env:NAME`."""
