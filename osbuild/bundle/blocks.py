"""Splits files into blocks identified by their SHA-256, to share blocks between boot images and to compare builds."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

SIZE = 4096  # bytes, as in RAUC's block-hash-index
# Bytes of the SHA-256 that identify a block of a boot image. They are few, because every update reads the whole table,
# and the SHA-256 of the assembled file is checked anyway.
DIGEST = 8


def hash_blocks(path: Path) -> Iterator[bytes]:
    """Yield the SHA-256 of each block of a file; the last block may be shorter. Raises `OSError`."""
    with path.open("rb") as file:
        while data := file.read(SIZE):
            yield hashlib.sha256(data).digest()


def group_runs(numbers: list[int]) -> list[list[int]]:
    """Group numbers into runs of consecutive ones, each as [first, count]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([number, 1])
    return runs


def store_blocks(files: Mapping[str, Path], folder: str, target: Path) -> None:
    """Write the distinct blocks of `files` (slot -> boot image) to boot.blocks, boot.hashes and boot.json in `target`.

    boot.hashes has the first `DIGEST` bytes of the SHA-256 of each block. `folder` is the folder of the boot images on
    the ESP. `osbuild.bundle.hook` assembles them.
    """
    numbers: dict[bytes, int] = {}
    slots = {}
    with (target / "boot.blocks").open("wb") as blocks:
        for slot, path in sorted(files.items()):
            file_digest, used = hashlib.sha256(), []
            with path.open("rb") as file:
                while data := file.read(SIZE):
                    file_digest.update(data)
                    digest = hashlib.sha256(data).digest()[:DIGEST]
                    if digest not in numbers:
                        numbers[digest] = len(numbers)
                        blocks.write(data.ljust(SIZE, b"\0"))
                    used.append(numbers[digest])
            size = path.stat().st_size
            slots[slot] = {"name": path.name, "size": size, "sha256": file_digest.hexdigest(), "runs": group_runs(used)}
    (target / "boot.hashes").write_bytes(b"".join(numbers))
    plan = {"format": 1, "block": SIZE, "digest": DIGEST, "folder": folder, "slots": slots}
    (target / "boot.json").write_text(json.dumps(plan) + "\n")
