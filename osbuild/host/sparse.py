"""Copies of files that keep their holes (lseek(2), SEEK_DATA and SEEK_HOLE)."""

import errno
import os

COPIED = 16 * 2**20  # bytes per read and write


def copy_sparse(source: int, target: int) -> None:
    """Copy the open file `source` to the open and empty file `target`. Raises `OSError`."""
    size, offset = os.fstat(source).st_size, 0
    while offset < size:
        try:
            offset = os.lseek(source, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # only a hole follows
                raise
            break
        end = os.lseek(source, offset, os.SEEK_HOLE)
        while offset < end:
            data = os.pread(source, min(COPIED, end - offset), offset)
            if not data:
                raise OSError(errno.EIO, "the file was truncated while it was copied")
            offset += os.pwrite(target, data, offset)
    os.ftruncate(target, size)
