"""What K3s unpacked on the data partition, in images that did not have it unpacked in their root yet: 278 MB.

Today's images do not use it. It is removed once no slot has an older image, which a rollback would go back to.
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
    """Remove it if no slot needs it. `boot` is a good one, and no update is pending. A failure is only reported."""
    try:
        for path in map(system.path, FOLDERS):
            aside = path.with_name(REMOVED)
            if path.is_dir() and not path.is_symlink() and unused(system, boot):
                # Renamed first: K3s would take a folder that a power cut left in pieces for a whole one.
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                sync_path(path.parent)
                print(f"removed {path}, which K3s of an older image unpacked")
            if aside.exists():
                shutil.rmtree(aside)
                discard(path.parent)
    except OSError as error:
        print(f"edge-agent: what K3s unpacked can't be removed: {error}", file=sys.stderr)


def unused(system: System, boot: Boot) -> bool:
    """Whether every slot is known to have an image whose K3s unpacks nothing: by the last boot of each."""
    if boot.entry is None or any(entry.state == "trial" for entry in boot.others):
        return False  # of an image that has not run yet, nothing is known
    rows = [
        boot_records.last_boot_of(system, slot) for slot in {boot.slot or "", *(entry.slot for entry in boot.others)}
    ]
    return all(row is not None and row.get("unpacks") is False for row in rows)


def discard(folder: Path) -> None:
    """Remove the folder above as well if it is empty: systemd-tmpfiles makes /var/lib/rancher/k3s a link."""
    if folder.name == "k3s":
        with suppress(OSError):
            folder.rmdir()
