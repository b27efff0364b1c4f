"""Files as sequences of blocks, each known by its sha256: what the slots' boot files share, what an update changes."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

SIZE = 4096  # bytes; RAUC's block-hash-index has the same
# Bytes of a sha256 by which a block of a boot file is known: the table is read by every update, and what is put
# together has its whole sha256 checked.
DIGEST = 8


def hash_blocks(path: Path) -> Iterator[bytes]:
    """sha256 of each block of a file, the last one maybe short."""
    with path.open("rb") as file:
        while data := file.read(SIZE):
            yield hashlib.sha256(data).digest()


def group_runs(numbers: list[int]) -> list[list[int]]:
    """Numbers as [first, count] of each run of consecutive ones."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == sum(found[-1]):
            found[-1][1] += 1
        else:
            found.append([number, 1])
    return found


def store_blocks(files: Mapping[str, Path], folder: str, target: Path) -> None:
    """Write every block of `files` (slot -> boot file) once, as boot.blocks, boot.hashes and boot.json in `target`.

    boot.hashes has the first `DIGEST` bytes of the sha256 of each.

    `folder` is where they belong on the boot partition. `osbuild.bundle.hook` puts them together again.
    """
    numbers: dict[bytes, int] = {}
    slots = {}
    with (target / "boot.blocks").open("wb") as blocks:
        for slot, path in sorted(files.items()):
            whole, used = hashlib.sha256(), []
            with path.open("rb") as file:
                while data := file.read(SIZE):
                    whole.update(data)
                    digest = hashlib.sha256(data).digest()[:DIGEST]
                    if digest not in numbers:
                        numbers[digest] = len(numbers)
                        blocks.write(data.ljust(SIZE, b"\0"))
                    used.append(numbers[digest])
            size = path.stat().st_size
            slots[slot] = {"name": path.name, "size": size, "sha256": whole.hexdigest(), "runs": group_runs(used)}
    (target / "boot.hashes").write_bytes(b"".join(numbers))
    plan = {"format": 1, "block": SIZE, "digest": DIGEST, "folder": folder, "slots": slots}
    (target / "boot.json").write_text(json.dumps(plan) + "\n")
