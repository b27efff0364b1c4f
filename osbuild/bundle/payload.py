"""What a bundle's signature covers: a squashfs and its dm-verity hash tree, which a device checks block by block.

`rauc info` checks the signature of the manifest alone, which has the root hash and salt of the tree.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 4096
LENGTH = 8  # bytes at the end that say how long the signature is (RAUC's manual, "Bundle Formats")


def find_payload_damage(path: Path, metadata: Mapping[str, Any]) -> str | None:
    """How a bundle differs from what was signed; None if it is intact or has no hash tree.

    `metadata` is the section `bundle` of `rauc info --output-format=json-2`. Raises `OSError`.
    """
    if metadata.get("format") != "verity":
        return None
    salt, size = bytes.fromhex(metadata["verity-salt"]), int(metadata["verity-size"])
    with path.open("rb") as file:
        end = file.seek(-LENGTH, os.SEEK_END)
        data_size = end - int.from_bytes(file.read(LENGTH), "big") - size
        if data_size < 0 or data_size % BLOCK:
            return "it is damaged: its parts don't have the sizes that were signed"
        file.seek(0)
        level = b"".join(hashlib.sha256(salt + file.read(BLOCK)).digest() for _ in range(data_size // BLOCK))
        stored = file.read(size)
    levels = []
    while True:  # the root hash is that of the one block of the highest level
        level = level.ljust(-(-len(level) // BLOCK) * BLOCK, b"\0")
        levels.append(level)
        if len(level) == BLOCK:
            break
        blocks = range(0, len(level), BLOCK)
        level = b"".join(hashlib.sha256(salt + level[at : at + BLOCK]).digest() for at in blocks)
    if hashlib.sha256(salt + levels[-1]).hexdigest() != metadata["verity-hash"]:
        return "it is damaged: its contents are not what was signed"
    return None if b"".join(reversed(levels)) == stored else "it is damaged: its hash tree is not what was signed"
