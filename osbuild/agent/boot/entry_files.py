"""A slot's boot entry, as every boot flow has it."""

from collections.abc import Iterable
from pathlib import Path

from osbuild.shared.files import sync_path


def remove_names(paths: Iterable[Path], aside: Path) -> None:
    """Remove names that may be those of one file: what a power cut within a rename leaves (see
    `osbuild.agent.boot.systemd_boot`).

    The first of them that goes frees the blocks of all. A power cut then must not leave one that is booted, or one
    alone that the bundle's hook keeps to copy from, while what it writes gets these blocks. So the last one gets the
    name `aside` before, which no boot loader takes, and the hook never keeps. Raises `OSError`.
    """
    there = [path for path in paths if path.exists()]
    if len(there) > 1 and not aside.exists():
        there[-1] = there[-1].rename(aside)
        sync_path(aside.parent)
    for path in there:
        path.unlink()
    sync_path(aside.parent)
