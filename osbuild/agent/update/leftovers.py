"""Removal of K3s' unpacked files (278 MB) on the data partition.

Only older images unpack K3s there; today's images contain it unpacked. The files are removed after no slot has an older
image any more, because a rollback to such an image would need them.
"""

import shutil
import sys
from contextlib import suppress
from pathlib import Path

from osbuild.agent.boot.loader import Boot
from osbuild.agent.system import System
from osbuild.agent.update import boot_records
from osbuild.shared.files import sync_path

FOLDERS = ("/var/lib/kubernetes/data", "/var/lib/rancher/k3s/data")
REMOVED = ".data.removed"


def remove(system: System, boot: Boot) -> None:
    """Remove the files if no slot needs them. `boot` is good and no update is pending. A failure is only reported."""
    try:
        for path in map(system.path, FOLDERS):
            aside = path.with_name(REMOVED)
            if path.is_dir() and not path.is_symlink() and is_unused(system, boot):
                # Renamed first, because K3s would use a folder that a power cut has left incomplete.
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                sync_path(path.parent)
                print(f"removed {path}: files that K3s of an older image had unpacked")
            if aside.exists():
                shutil.rmtree(aside)
                remove_k3s_folder(path.parent)
    except OSError as error:
        print(f"edge-agent: the unpacked files of K3s cannot be removed: {error}", file=sys.stderr)


def is_unused(system: System, boot: Boot) -> bool:
    """Whether the last boot of every slot shows that its image does not unpack K3s."""
    if boot.entry is None or any(entry.state == "trial" for entry in boot.others):
        return False  # nothing is known about an image that has not been booted yet
    rows = [
        boot_records.last_boot_of(system, slot) for slot in {boot.slot or "", *(entry.slot for entry in boot.others)}
    ]
    return all(row is not None and row.get("unpacks") is False for row in rows)


def remove_k3s_folder(folder: Path) -> None:
    """Remove an empty /var/lib/rancher/k3s, so that systemd-tmpfiles can create the link of this name."""
    if folder.name == "k3s":
        with suppress(OSError):
            folder.rmdir()
