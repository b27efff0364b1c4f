"""Development keys, created when they are first needed, so that a first bundle needs no preparation.

They are stored in the user's data folder: in a checkout they could be committed, and in the cache they could be
deleted although devices trust them. Their certificates are marked as development keys.
"""

import os
from datetime import timedelta
from pathlib import Path

from osbuild.host import log
from osbuild.keys.authority import PrivateKeyAccess, create_keys, rotate_signer
from osbuild.keys.certificate import current_time
from osbuild.keys.key_folder import KeyFolder, has_keys, load_keys
from osbuild.shared.errors import Error

OWNER = "edge-osbuild"
RENEW_BEFORE = timedelta(days=30)


def default_folder() -> Path:
    """Return $EDGE_OSBUILD_KEYS or `edge-osbuild/keys` in the user's data folder (XDG base directory specification)."""
    if named := os.environ.get("EDGE_OSBUILD_KEYS"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-osbuild/keys"


def existing_keys(folder: Path | None = None) -> KeyFolder:
    """Return the keys in `folder`, or in the default folder. Raises `Error` if there are none."""
    return load_keys(folder or default_folder())


def signing_keys(folder: Path | None = None) -> KeyFolder:
    """Like `existing_keys`, but creates development keys in the user's data folder if the default folder has none.

    A development signer that expires within 30 days is replaced. Raises `Error` if `folder` has no keys.
    """
    path = default_folder()
    if folder is not None or os.environ.get("EDGE_OSBUILD_KEYS"):
        return existing_keys(folder)
    if not has_keys(path):
        log.warn(f"creating development keys in {path}: for devices in the field, use `edge-osbuild keys init`")
        try:
            return create_keys(path, OWNER, PrivateKeyAccess(), development=True)
        except Error:
            if not has_keys(path):  # otherwise another process has created them meanwhile
                raise
    keys = load_keys(path)
    if keys.development and keys.certificate(keys.signer).not_valid_after_utc < current_time() + RENEW_BEFORE:
        log.note(f"the development signer {keys.signer} expires soon: creating a new one")
        return rotate_signer(path, PrivateKeyAccess())
    return keys
