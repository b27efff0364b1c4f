"""Image archives in the form that `ctr images import` of the node reads: tar files that are not compressed."""

import bz2
import gzip
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

from osbuild.kubernetes.tree_files import install_file

CHUNK = 2**20
OPENERS: dict[bytes, Callable[[Path], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x5d\x00\x00": lzma.LZMAFile,
}
"""the first bytes of compressed files that tarfile reads, and what reads them"""


def find_stem(name: str) -> str:
    """Return the name of an archive's file without what says that it is a tar file, or is compressed."""
    for ending in (".gz", ".bz2", ".xz", ".lzma", ".tgz", ".tar"):
        name = name.removesuffix(ending)
    return name


def write_plain_archive(archive: Path, target: Path) -> None:
    """Copy a checked archive to `target`, decompressed. Raises `OSError`.

    containerd 1.7 reads no compressed archive: "archive/tar: invalid tar header". The file system of the image
    compresses it again.
    """
    with archive.open("rb") as file:
        first = file.read(max(map(len, OPENERS)))
    opener = next((opener for magic, opener in OPENERS.items() if first.startswith(magic)), None)
    if opener is None:
        install_file(archive, target, 0o644)
        return
    with opener(archive) as stream, target.open("wb") as output:
        shutil.copyfileobj(stream, output, CHUNK)
    target.chmod(0o644)
