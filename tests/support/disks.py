"""The images in tests/data, unpacked for a test (see make-disk.sh there), and other sparse files."""

import io
import lzma
from pathlib import Path
from typing import BinaryIO

DATA = Path(__file__).parents[1] / "data"
HOLE = 2**16


def unpack_disk(name: str, folder: Path) -> Path:
    """Write `name`.xz of the data folder into `folder`, sparse, and return its path."""
    path = folder / name
    with lzma.open(DATA / f"{name}.xz") as packed:
        copy_sparse(packed, path)
    return path


def write_sparse(path: Path, data: bytes) -> None:
    """Write `data` to `path`, with holes instead of zeros."""
    copy_sparse(io.BytesIO(data), path)


def copy_sparse(source: BinaryIO | lzma.LZMAFile, path: Path) -> None:
    with path.open("wb") as file:
        while block := source.read(HOLE):
            if block == bytes(len(block)):
                file.seek(len(block), 1)
            else:
                file.write(block)
        file.truncate()
