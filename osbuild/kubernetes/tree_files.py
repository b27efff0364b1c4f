"""Writes files of a component's file tree."""

import shutil
from pathlib import Path

from osbuild.shared.errors import Error

LIB = Path("usr/lib/edge-osbuild")


def write_public(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def unused_path(path: Path) -> Path:
    """Return `path`. Raises `Error` if another input is stored there already."""
    if path.exists():
        raise Error(f"two inputs have the name {path.name}", where="kubernetes", hint="rename one of them")
    return path


def install_file(source: Path, target: Path, mode: int) -> None:
    """Copy a file, sharing its blocks if the file system supports it (copy_file_range(2)). Raises `OSError`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
