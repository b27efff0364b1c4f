"""Checks the payload of a bundle: a squashfs with its dm-verity hash tree, which a device checks block by block.

`rauc info` checks only the signature of the manifest, which contains root hash and salt of the hash tree.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 4096
LENGTH = 8  # the last bytes of a bundle store the length of the signature (RAUC's manual, "Bundle Formats")


def find_payload_damage(path: Path, metadata: Mapping[str, Any]) -> str | None:
    """Return how a bundle differs from the signed one; None if it is intact or has no hash tree.

    `metadata` is the section `bundle` of `rauc info --output-format=json-2`. Raises `OSError`.
    """
    if metadata.get("format") != "verity":
        return None
    salt, size = bytes.fromhex(metadata["verity-salt"]), int(metadata["verity-size"])
    with path.open("rb") as file:
        end = file.seek(-LENGTH, os.SEEK_END)
        data_size = end - int.from_bytes(file.read(LENGTH), "big") - size
        if size < 0 or data_size < 0 or data_size % BLOCK:
            return "the bundle is damaged: its parts don't have the signed sizes"
        file.seek(0)
        level = b"".join(hashlib.sha256(salt + file.read(BLOCK)).digest() for _ in range(data_size // BLOCK))
        stored = file.read(size)
    levels = []
    while True:  # the root hash is the hash of the only block of the highest level
        level = level.ljust(-(-len(level) // BLOCK) * BLOCK, b"\0")
        levels.append(level)
        if len(level) == BLOCK:
            break
        blocks = range(0, len(level), BLOCK)
        level = b"".join(hashlib.sha256(salt + level[at : at + BLOCK]).digest() for at in blocks)
    if hashlib.sha256(salt + levels[-1]).hexdigest() != metadata["verity-hash"]:
        return "the bundle is damaged: its contents are not the signed ones"
    return (
        None if b"".join(reversed(levels)) == stored else "the bundle is damaged: its hash tree is not the signed one"
    )
