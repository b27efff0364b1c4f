"""Paths of this project's own files, and how a path is shown to the user.

In a checkout, profiles, boards, overlays and templates are beside the package. A wheel contains them in the folder
`shipped` of the package (osbuild/packaging.py).
"""

import functools
import os
from pathlib import Path

from osbuild.host import packed_tree
from osbuild.host.cache import Cache, content_key, file_digest
from osbuild.shared.errors import Error

PACKAGE = Path(__file__).resolve().parents[1]
PROJECT = PACKAGE.parent  # the checkout, if this is one
SHIPPED = PACKAGE / "shipped"
INSTALLED = SHIPPED.is_dir()
DATA = SHIPPED if INSTALLED else PROJECT
PROFILES = DATA / "profiles"
BOARDS = DATA / "boards"
TEMPLATES = DATA / "cloud-init"
ELEMENTS = PACKAGE / "rootfs" / "elements"
KERNEL = ("/proc", "/sys")


def overlays_folder() -> Path:
    """Return the folder of this project's overlays. A wheel's are unpacked into the cache. Raises `Error`."""
    return unpack_shipped(SHIPPED / "overlays.tar") if INSTALLED else PROJECT / "overlays"


@functools.cache
def unpack_shipped(archive: Path) -> Path:
    """Unpack `archive` (`osbuild.host.packed_tree`) into the user's cache and return the folder. Raises `Error`."""
    cache = Cache()
    try:
        return cache.get_or_make(
            "shipped", content_key(file_digest(archive)), lambda path: packed_tree.unpack_tree(archive, path)
        )
    except OSError as error:
        hint = "set EDGE_OSBUILD_CACHE to a folder that you can write to"
        message = f"cannot be written: {error.strerror}"
        raise Error(message, where=error.filename or str(cache.root), hint=hint) from error


def display_path(path: Path) -> str:
    """Return `path` relative to the current folder if it is below it, else absolute."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except (ValueError, OSError):  # the current folder may have been deleted
        return str(path)


def path_exists(path: Path) -> bool:
    """Whether `path` exists and is accessible; False for a name that no file system allows."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def made_by_kernel(path: Path) -> bool:
    """Whether `path`, links followed, is below /proc or /sys: files there may have no end, or make a reader wait."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError, ValueError):
        return False
    return any(real.is_relative_to(folder) for folder in KERNEL)


def resolve_named(name: str, folder: Path) -> Path:
    """Return the path that `name` stands for in a profile in `folder`; `~/` is the user's home folder."""
    return Path(os.path.expanduser(name) if name.startswith("~/") else folder / name)  # noqa: PTH111 - never raises


def overlay_path(name: str, folder: Path) -> Path:
    """Return the folder of an overlay that a profile in `folder` names. It need not exist.

    A name without `/` is first looked up in the project's `overlays/`.
    """
    if "/" not in name and path_exists(overlays_folder() / name):
        return overlays_folder() / name
    return resolve_named(name, folder)


def element_path(name: str, folder: Path) -> Path:
    """Return the folder of an element that a profile in `folder` names. It need not exist.

    A name without `/` is first looked up among the project's own elements.
    """
    if "/" not in name and path_exists(ELEMENTS / name):
        return ELEMENTS / name
    return resolve_named(name, folder)
