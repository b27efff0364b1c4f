"""The folders of a node that a seed can't change: the root file system is read-only."""

import posixpath

READ_ONLY = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/boot/", "/efi/", "/dev/", "/proc/", "/sys/")
WRITABLE = ("/usr/local/",)  # on the data partition


def normalize(path: str) -> str:
    """Return an absolute path without doubled `/`, `.` and a `/` at its end."""
    return "/" + posixpath.normpath(path).lstrip("/")


def is_read_only(path: str) -> bool:
    """Whether the file or folder `path` is part of the read-only image, or of the kernel's file systems."""
    folder = f"{normalize(path)}/"
    return folder.startswith(READ_ONLY) and not folder.startswith(WRITABLE)
