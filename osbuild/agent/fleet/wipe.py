"""Wipes this device: first its keys and tokens, then, at the next boot, the data partition (`mount-state`)."""

import shutil
from collections.abc import Callable

from osbuild.agent.fleet.action_record import FOLDER
from osbuild.agent.fleet.identity import COPIES
from osbuild.agent.seed.choose import ON_ESP
from osbuild.agent.system import System
from osbuild.shared.files import sync_path, write_file

MARK = "/var/lib/edge-osbuild/wipe"  # read by mount-state in the initrd
# Folders with keys, tokens and passwords, those of the update server first.
SECRET_FOLDERS = (
    FOLDER, COPIES, "/var/lib/edge-osbuild/seed", ON_ESP, "/var/lib/kubernetes", "/var/lib/kubelet/pki",
    "/var/lib/rancher", "/var/lib/edge-osbuild/identity",
)  # fmt: skip


def wipe_device(system: System, announce: Callable[[], None], reboot: Callable[[], None]) -> None:
    """Destroy the keys of this device, and reboot; the next boot formats the data partition.

    `announce` tells the update server, while there is a key to do so. Raises `Problem`, and `OSError` before it.
    """
    write_file(system.path(MARK), b"requested by an operator\n", 0o600)  # a power cut does not end a wipe
    announce()
    for name in SECRET_FOLDERS:
        remove_folder(system, name)
    reboot()


def remove_folder(system: System, name: str) -> None:
    """Remove a folder with all of its files. What cannot be removed is reported; the next boot removes it."""
    path = system.path(name)
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        print(f"edge-agent: {path} cannot be removed completely now", flush=True)
    if path.parent.exists():
        sync_path(path.parent)
