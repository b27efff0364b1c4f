"""The images in tests/data, unpacked for a test (see make-disk.sh there)."""

import lzma
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
HOLE = 2**16


def unpack_disk(name: str, folder: Path) -> Path:
    """Write `name`.xz of the data folder into `folder`, sparse, and return its path."""
    path = folder / name
    with lzma.open(DATA / f"{name}.xz") as packed, path.open("wb") as file:
        while block := packed.read(HOLE):
            if block == bytes(len(block)):
                file.seek(len(block), 1)
            else:
                file.write(block)
        file.truncate()
    return path
