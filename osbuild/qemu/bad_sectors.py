"""Bad sectors of a disk, while the machine runs: QEMU's driver `blkdebug`, put in front of its file and away again.

Only a raw disk has the guest's sectors at their own places in its file.
"""

from collections.abc import Sequence

from osbuild.qemu.command import blockdev_arguments, file_node
from osbuild.qemu.files import Drive
from osbuild.qemu.session import Session
from osbuild.shared.errors import Error

SECTOR = 512
EIO = 5
KINDS = ("read", "write")


class BadSectors:
    """What is broken of the disk `drive`."""

    def __init__(self, session: Session, drive: Drive) -> None:
        """Raises `Error` where the disk is none whose sectors can break."""
        if drive.format != "raw" or drive.log or drive.readonly:
            raise Error(
                f"the sectors of {drive.name} cannot break", where=str(drive.path), hint="attach a raw disk (`disks`)"
            )
        self._session = session
        self._drive = drive
        self._node: str | None = None
        self._count = 0

    def set(self, places: Sequence[int], kinds: Sequence[str] = KINDS) -> None:
        """From now on requests of `kinds` that touch a sector at one of `places`, in bytes, fail with EIO."""
        self._count += 1
        node = f"{self._drive.name}-bad{self._count}"
        rules = [
            {"event": "none", "iotype": kind, "sector": offset // SECTOR, "errno": EIO, "once": False}
            for offset in places
            for kind in kinds
        ]
        image = file_node(self._drive.name)
        self._session.qmp("blockdev-add", driver="blkdebug", node_name=node, image=image, inject_error=rules)
        self._point(node)

    def clear(self) -> None:
        """Every sector is good again."""
        if self._node:
            self._point(file_node(self._drive.name))

    def _point(self, file: str) -> None:
        """Let the disk's own node read and write through the node `file`."""
        options = {**blockdev_arguments(self._drive), "file": file}
        self._session.qmp("blockdev-reopen", options=[options])
        before, self._node = self._node, None if file == file_node(self._drive.name) else file
        if before:
            self._session.qmp("blockdev-del", node_name=before)
