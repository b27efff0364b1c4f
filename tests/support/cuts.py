"""A power cut after a number of writes, and the state of the ESP after it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


class Cut(BaseException):
    """The power is gone: nothing that comes after it has any effect."""


@dataclass
class Power:
    """`left`: how many writes there are until the power fails; None for power that stays."""

    left: int | None = None
    off: bool = False

    def tick(self) -> None:
        """Before and after everything that is written."""
        if self.left is not None:
            self.off = self.off or self.left == 0
            self.left -= 1
        if self.off:
            raise Cut

    def restore(self, left: int | None = None) -> None:
        self.left, self.off = left, False


@dataclass
class Fat:
    """The ESP, as Linux writes FAT with `dirsync` (fs/fat/namei_vfat.c), and the raw partition beside it.

    Between the steps of a rename there is the new name with nothing in it, then both names for the same blocks, which
    hard links stand for. To remove one of these frees the blocks of both: `freed` has such files by their inode.
    """

    power: Power
    folder: Path
    raw: Path
    freed: set[int] = field(default_factory=set)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have the power fail within what is written there meanwhile."""
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
            done = pwrite(descriptor, data, offset)
            self.power.tick()
            return done

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "unlink", fat_unlink)
            patch.setattr(os, "rename", fat_rename)
            patch.setattr(os, "replace", fat_rename)
            patch.setattr(os, "pwrite", raw_pwrite)
            yield

    def has(self, path: Any) -> bool:
        return Path(path).parent == self.folder

    def free(self, path: Any, but: Any = None) -> None:
        """What becomes of blocks once the name `path` goes, which `but` gets."""
        found = Path(path).stat()
        shared = found.st_nlink > 1 or (but and os.path.samestat(found, Path(but).stat()))
        self.freed = self.freed | {found.st_ino} if shared else self.freed - {found.st_ino}

    def torn(self) -> list[str]:
        """Names of files whose blocks are free."""
        return sorted(path.name for path in self.folder.iterdir() if path.stat().st_ino in self.freed)
