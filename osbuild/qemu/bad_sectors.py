"""Bad sectors of a disk in a running machine: inserts QEMU's driver `blkdebug` in front of the disk's file.

The disk must be raw, because only then the offsets in its file are those of the guest's sectors.
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
    """The bad sectors of the disk `drive`."""

    def __init__(self, session: Session, drive: Drive) -> None:
        """Raises `Error` if the disk does not support bad sectors."""
        if drive.format != "raw" or drive.log or drive.readonly:
            raise Error(
                f"{drive.name} does not support bad sectors", where=str(drive.path), hint="attach a raw disk (`disks`)"
            )
        self._session = session
        self._drive = drive
        self._node: str | None = None
        self._count = 0

    def set(self, offsets: Sequence[int], kinds: Sequence[str] = KINDS) -> None:
        """Let requests of `kinds` fail with EIO if they include a sector at one of `offsets`, in bytes."""
        self._count += 1
        node = f"{self._drive.name}-bad{self._count}"
        rules = [
            {"event": "none", "iotype": kind, "sector": offset // SECTOR, "errno": EIO, "once": False}
            for offset in offsets
            for kind in kinds
        ]
        image = file_node(self._drive.name)
        self._session.qmp("blockdev-add", driver="blkdebug", node_name=node, image=image, inject_error=rules)
        self._set_file(node)

    def clear(self) -> None:
        """Let all requests succeed again."""
        if self._node:
            self._set_file(file_node(self._drive.name))

    def _set_file(self, file: str) -> None:
        """Let the disk's node read and write through the node `file`."""
        options = {**blockdev_arguments(self._drive), "file": file}
        self._session.qmp("blockdev-reopen", options=[options])
        before, self._node = self._node, None if file == file_node(self._drive.name) else file
        if before:
            self._session.qmp("blockdev-del", node_name=before)
