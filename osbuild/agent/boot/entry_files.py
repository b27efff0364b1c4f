"""Removal of boot images on the ESP."""

from collections.abc import Iterable
from pathlib import Path

from osbuild.shared.files import sync_path


def remove_names(paths: Iterable[Path], aside: Path) -> None:
    """Remove files that may be several names of one file; `aside` is a name that no boot loader reads.

    Raises `OSError`.
    """
    # After a power cut during a rename on FAT, two names may share the same blocks (see `systemd_boot`), and removing
    # the first name frees the blocks of both. After a second power cut here, the remaining name must neither be
    # bootable nor be a name that the bundle's hook copies from. So the last name is renamed to `aside` first.
    present = [path for path in paths if path.exists()]
    if len(present) > 1 and not aside.exists():
        present[-1] = present[-1].rename(aside)
        sync_path(aside.parent)
    for path in present:
        path.unlink()
    sync_path(aside.parent)
