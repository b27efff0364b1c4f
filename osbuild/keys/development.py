"""Keys for development, made when they are first needed, so that a first bundle needs no ceremony.

They are of the user's data folder, not of a checkout, where they could be committed, nor of the cache, where they
could be deleted: devices trust them. Their certificates say what they are.
"""

import os
from datetime import timedelta
from pathlib import Path

from osbuild.host import log
from osbuild.keys.authority import PrivateKeyAccess, create_keys, rotate_signer
from osbuild.keys.certificate import current_time
from osbuild.keys.key_folder import KeyFolder, has_keys, load_keys

OWNER = "edge-osbuild"
RENEW_BEFORE = timedelta(days=30)


def default_folder() -> Path:
    """`$EDGE_OSBUILD_KEYS`, or `edge-osbuild/keys` in the user's data folder (XDG base directory specification)."""
    if named := os.environ.get("EDGE_OSBUILD_KEYS"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-osbuild/keys"


def existing_keys(folder: Path | None = None) -> KeyFolder:
    """The keys in `folder`, or those of the default folder. Raises `Error` where there are none."""
    return load_keys(folder or default_folder())


def signing_keys(folder: Path | None = None) -> KeyFolder:
    """Like `existing_keys`, to sign with: development keys are made in the user's data folder if there are none there.

    A development signer that is about to expire is replaced by a new one. Raises `Error` where `folder` has no keys.
    """
    path = default_folder()
    if folder is not None or os.environ.get("EDGE_OSBUILD_KEYS"):
        return existing_keys(folder)
    if not has_keys(path):
        log.warn(f"making development keys in {path}: not for devices in the field (`edge-osbuild keys init` is)")
        return create_keys(path, OWNER, PrivateKeyAccess(), development=True)
    keys = load_keys(path)
    if keys.development and keys.certificate(keys.signer).not_valid_after_utc < current_time() + RENEW_BEFORE:
        log.note(f"the development signer {keys.signer} is at its end: making a new one")
        return rotate_signer(path, PrivateKeyAccess())
    return keys
