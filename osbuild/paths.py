"""Where this project's own files are, and how a path is shown to a person.

In a checkout, profiles, boards, overlays and templates are beside the package. In a wheel they are in it, in `shipped`
(osbuild/packaging.py).
"""

import functools
import os
from pathlib import Path

from osbuild import packedtree
from osbuild.cache import Cache, content_key, file_digest
from osbuild.errors import Error

PACKAGE = Path(__file__).resolve().parent
PROJECT = PACKAGE.parent  # the checkout, if this is one
SHIPPED = PACKAGE / "shipped"
INSTALLED = SHIPPED.is_dir()
DATA = SHIPPED if INSTALLED else PROJECT
PROFILES = DATA / "profiles"
BOARDS = DATA / "boards"
TEMPLATES = DATA / "cloud-init"
ELEMENTS = PACKAGE / "elements"


def overlays() -> Path:
    """The folder with this project's overlays. Those of a wheel are unpacked into the cache first. Raises `Error`."""
    return unpacked(SHIPPED / "overlays.tar") if INSTALLED else PROJECT / "overlays"


@functools.cache
def unpacked(archive: Path) -> Path:
    """The folder in the user's cache that `archive` (`osbuild.packedtree`) was unpacked to. Raises `Error`."""
    cache = Cache()
    try:
        return cache.entry("shipped", content_key(file_digest(archive)), lambda path: packedtree.unpack(archive, path))
    except OSError as error:
        hint = "set EDGE_OSBUILD_CACHE to a folder that you can write to"
        message = f"cannot be written: {error.strerror}"
        raise Error(message, where=error.filename or str(cache.root), hint=hint) from error


def display(path: Path) -> str:
    """`path` relative to the current folder where it is below it, absolute elsewhere."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):  # the current folder may have been deleted
        return str(path)


def exists(path: Path) -> bool:
    """Whether `path` exists and can be reached; False for what no file system could hold."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def named(name: str, folder: Path) -> Path:
    """The file that `name` means in a profile whose folder is `folder`; `~/` is the user's home."""
    return Path(os.path.expanduser(name) if name.startswith("~/") else folder / name)  # noqa: PTH111 - never raises


def overlay(name: str, folder: Path) -> Path:
    """The folder of one of a profile's `overlays`: a bare name is first sought in the project's `overlays/`.

    `folder` is that of the profile. The result need not exist.
    """
    if "/" not in name and exists(overlays() / name):
        return overlays() / name
    return named(name, folder)


def element(name: str, folder: Path) -> Path:
    """The folder of one of a profile's `elements`: one of ours by its name, or a path relative to `folder`.

    The result need not exist.
    """
    if "/" not in name and exists(ELEMENTS / name):
        return ELEMENTS / name
    return named(name, folder)
