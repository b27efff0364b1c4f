"""Copies of files that keep their holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""

import errno
import os

COPIED = 16 * 2**20  # bytes that are copied at once


def copy(source: int, target: int) -> None:
    """Copy the open file `source` to the open and empty file `target`. Raises `OSError`."""
    size, place = os.fstat(source).st_size, 0
    while place < size:
        try:
            place = os.lseek(source, place, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # nothing but a hole follows
                raise
            break
        end = os.lseek(source, place, os.SEEK_HOLE)
        while place < end:
            data = os.pread(source, min(COPIED, end - place), place)
            if not data:
                raise OSError(errno.EIO, "it became shorter while it was copied")
            place += os.pwrite(target, data, place)
    os.ftruncate(target, size)
