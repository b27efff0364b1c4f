"""Small builds for tests: the files of a real build, with random contents."""

import hashlib
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BLOCK = 4096


def random_blocks(seed: object, blocks: int) -> bytes:
    """Return bytes that depend only on the seed, and share no block with those of another seed."""
    return random.Random(str(seed)).randbytes(blocks * BLOCK)


def hash_tree(root: bytes, salt: bytes = b"") -> tuple[bytes, str]:
    """Return superblock and hash tree of a root like `veritysetup format`, and the root hash."""
    head = struct.pack("<8sII16s32sIIQH6x256s", b"verity", 1, 1, bytes(16), b"sha256", BLOCK, BLOCK,
                       len(root) // BLOCK, len(salt), salt)  # fmt: skip
    levels, data = [], root
    while len(data) > BLOCK:
        hashes = [hashlib.sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
        data = b"".join(hashes)
        data = data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")
        levels.append(data)
    return b"".join([head.ljust(BLOCK, b"\0"), *reversed(levels)]), hashlib.sha256(salt + data).hexdigest()


def make_build(
    folder: Path, *, version: str = "1.0.0", root: bytes | None = None, kernel: bytes | None = None,
    kind: str = "efi", tree: bytes | None = None, metadata: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Make a build in `folder`: a root, its hash tree, and a boot image for each slot, which differ in one block.

    `metadata` replaces keys of the build manifest.
    """
    folder.mkdir(parents=True)
    body = random_blocks("kernel", 20) + b"odd end" if kernel is None else kernel
    files = {
        "root.erofs": random_blocks("root", 50) if root is None else root,
        "root.verity": random_blocks("tree", 2) if tree is None else tree,
    }
    files |= {f"edge-{slot}.{kind}": f"slot={slot}".encode().ljust(BLOCK) + body for slot in "ab"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    manifest = {
        "name": "tiny", "version": version, "architecture": "x86_64", "key": f"key of {version}", "roothash": "0" * 64,
        "packages": [{"name": "bash", "version": "5.2", "sha256": "1" * 64}],
        "components": [{"name": "linux", "version": "6.12", "size": 1}],
        "kernel": {"release": "6.12"}, "timings": [],
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)} for name, data in files.items()
        },
        **(metadata or {}),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
