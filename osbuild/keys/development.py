"""Keys for development, made when they are first needed, so that a first bundle needs no ceremony.

They are of the user's data folder, not of a checkout, where they could be committed, nor of the cache, where they
could be deleted: devices trust them. Their certificates say what they are.
"""

import os
from datetime import timedelta
from pathlib import Path

from osbuild import log
from osbuild.keys.authority import Access, init, rotate_signer
from osbuild.keys.certificate import now
from osbuild.keys.store import Keys, exists, load

OWNER = "edge-osbuild"
SPARE = timedelta(days=30)


def default_folder() -> Path:
    """`$EDGE_OSBUILD_KEYS`, or `edge-osbuild/keys` in the user's data folder (XDG base directory specification)."""
    if named := os.environ.get("EDGE_OSBUILD_KEYS"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "edge-osbuild/keys"


def chosen(folder: Path | None = None) -> Keys:
    """The keys in `folder`, or those of the default folder. Raises `Error` where there are none."""
    return load(folder or default_folder())


def current(folder: Path | None = None) -> Keys:
    """Like `chosen`, to sign with: development keys are made in the user's data folder if there are none there.

    A development signer that is about to expire is replaced by a new one. Raises `Error` where `folder` has no keys.
    """
    place = default_folder()
    if folder is not None or os.environ.get("EDGE_OSBUILD_KEYS"):
        return chosen(folder)
    if not exists(place):
        log.warn(f"making development keys in {place}: not for devices in the field (`edge-osbuild keys init` is)")
        return init(place, OWNER, Access(), development=True)
    keys = load(place)
    if keys.development and keys.certificate(keys.signer).not_valid_after_utc < now() + SPARE:
        log.note(f"the development signer {keys.signer} is at its end: making a new one")
        return rotate_signer(place, Access())
    return keys
