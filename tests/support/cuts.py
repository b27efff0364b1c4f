"""A power cut after a number of writes, and the state of the ESP after it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


class Cut(BaseException):
    """A power cut: later writes have no effect."""


@dataclass
class Power:
    """`left` is the number of writes until the power fails, None if it does not fail."""

    left: int | None = None
    off: bool = False

    def tick(self) -> None:
        """Count a step. Called before and after every write; raises `Cut` once the power is off."""
        if self.left is not None:
            self.off = self.off or self.left == 0
            self.left -= 1
        if self.off:
            raise Cut

    def restore(self, left: int | None = None) -> None:
        self.left, self.off = left, False


@dataclass
class Fat:
    """The ESP, as Linux writes FAT with `dirsync` (fs/fat/namei_vfat.c), and a raw partition beside it.

    Between the steps of a rename, the new name is empty, and then both names have the same blocks, simulated by hard
    links. Removing one of the names frees the blocks of both: `freed` are the inodes of such files.
    """

    power: Power
    folder: Path
    raw: Path
    freed: set[int] = field(default_factory=set)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let the power fail between the writes of the block."""
        rename, unlink, pwrite, link = os.rename, os.unlink, os.pwrite, os.link

        def fat_unlink(path: Any, *, dir_fd: int | None = None) -> None:
            if dir_fd is not None or not self.has(path):
                return unlink(path, dir_fd=dir_fd)
            self.power.tick()
            self.free(path)
            unlink(path)
            self.power.tick()

        def fat_rename(old: Any, new: Any) -> None:
            if not self.has(old):
                return rename(old, new)
            self.power.tick()
            if not Path(new).exists():
                Path(new).touch()
                self.power.tick()
            assert not (Path(old).suffix == ".partial" and self.torn()), "what is new may lie in blocks of an old name"
            self.free(new, old)
            unlink(new)
            link(old, new)
            self.power.tick()
            unlink(old)
            self.power.tick()

        def raw_pwrite(descriptor: int, data: bytes, offset: int) -> int:
            if Path(f"/proc/self/fd/{descriptor}").readlink() == self.raw:
                self.power.tick()
                pwrite(descriptor, data[: len(data) // 2], offset)
                self.power.tick()
            written = pwrite(descriptor, data, offset)
            self.power.tick()
            return written

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "unlink", fat_unlink)
            patch.setattr(os, "rename", fat_rename)
            patch.setattr(os, "replace", fat_rename)
            patch.setattr(os, "pwrite", raw_pwrite)
            yield

    def has(self, path: Any) -> bool:
        return Path(path).parent == self.folder

    def free(self, path: Any, kept_name: Any = None) -> None:
        """Update `freed` for the removal of the name `path`, which is reused for `kept_name`."""
        status = Path(path).stat()
        shared = status.st_nlink > 1 or (kept_name and os.path.samestat(status, Path(kept_name).stat()))
        self.freed = self.freed | {status.st_ino} if shared else self.freed - {status.st_ino}

    def torn(self) -> list[str]:
        """Return the names of files whose blocks are free."""
        return sorted(path.name for path in self.folder.iterdir() if path.stat().st_ino in self.freed)
