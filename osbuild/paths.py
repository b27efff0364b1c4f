"""Where this project's own files are, and how a path is shown to a person."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
OVERLAYS = PROJECT / "overlays"
PROFILES = PROJECT / "profiles"
BOARDS = PROJECT / "boards"
ELEMENTS = PROJECT / "osbuild" / "elements"
TEMPLATES = PROJECT / "cloud-init"


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
    if "/" not in name and exists(OVERLAYS / name):
        return OVERLAYS / name
    return named(name, folder)


def element(name: str, folder: Path) -> Path:
    """The folder of one of a profile's `elements`: one of ours by its name, or a path relative to `folder`.

    The result need not exist.
    """
    if "/" not in name and exists(ELEMENTS / name):
        return ELEMENTS / name
    return named(name, folder)
