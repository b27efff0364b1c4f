"""Files of a component's tree."""

import shutil
from pathlib import Path

from osbuild.shared.errors import Error

LIB = Path("usr/lib/edge-osbuild")


def write_public(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)


def claim_path(path: Path) -> Path:
    """`path`, which two inputs must not share. Raises `Error` if one already has it."""
    if path.exists():
        raise Error(f"two inputs are called {path.name}", where="kubernetes", hint="give one of them another name")
    return path


def install_file(source: Path, target: Path, mode: int) -> None:
    """Copy a file, sharing its blocks where the file system can (ioctl_ficlonerange(2), which copy_file_range uses)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)
