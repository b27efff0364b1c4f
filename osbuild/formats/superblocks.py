"""Reads the superblocks of erofs, dm-verity and ext4.

Sources: Linux, Documentation/filesystems/erofs.rst and the EROFS project's "Core on-disk format"; cryptsetup's
"DM-Verity on-disk specification"; Linux, Documentation/filesystems/ext4/super.rst.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import BinaryIO
from uuid import UUID

EROFS = struct.Struct("<IIIBBHQQIIII16s16sIH")
EROFS_MAGIC = 0xE0F5E1E2
EROFS_ALGORITHMS = ("lz4", "lzma", "deflate", "zstd")
VERITY = struct.Struct("<8sII16s32sIIQH6x256s168x")


def _at(image: BinaryIO, offset: int, size: int) -> bytes:
    image.seek(offset)
    return image.read(size)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


@dataclass(frozen=True)
class Erofs:
    """`size` and `block_size` are in bytes; `build_time` in seconds since 1970; `intact` is None without a checksum."""

    label: str
    uuid: UUID
    size: int
    block_size: int
    inodes: int
    build_time: int
    compression: tuple[str, ...]
    intact: bool | None


def read_erofs(image: BinaryIO, offset: int) -> Erofs | None:
    """Read the erofs in the partition at `offset` bytes in `image`; None if there is none."""
    raw = _at(image, offset + 1024, EROFS.size)
    if len(raw) < EROFS.size:
        return None
    (magic, crc, compat, bits, _, _, inodes, built, _, blocks, _, _, uuid, label, incompat, algorithms) = EROFS.unpack(
        raw
    )
    if magic != EROFS_MAGIC or not 9 <= bits <= 16:
        return None
    if incompat & 2:  # COMPR_CFGS: a bit for each algorithm
        compression = tuple(name for bit, name in enumerate(EROFS_ALGORITHMS) if algorithms >> bit & 1)
    else:
        compression = ("lz4",) if incompat & 1 else ()
    intact = None
    if compat & 1:  # the checksum covers the block from the superblock on, with zeros in the checksum's own field
        block = bytearray(_at(image, offset + 1024, (1 << bits) - 1024 if bits > 10 else 1 << bits))
        block[4:8] = bytes(4)
        intact = crc32c(bytes(block)) == crc
    return Erofs(
        label=_text(label),
        uuid=UUID(bytes=uuid),
        size=blocks << bits,
        block_size=1 << bits,
        inodes=inodes,
        build_time=built,
        compression=compression,
        intact=intact,
    )


def crc32c(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """Return the CRC-32C (RFC 3720, appendix B.4), not inverted at the end, as erofs stores it."""
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


@dataclass(frozen=True)
class Verity:
    """Sizes are in bytes, `data_blocks` in blocks; `root_hash` is computed from the top block of the hash tree."""

    uuid: UUID
    algorithm: str
    salt: str
    data_block_size: int
    hash_block_size: int
    data_blocks: int
    size: int
    root_hash: str | None


def read_verity(image: BinaryIO, offset: int) -> Verity | None:
    """Read the dm-verity superblock at `offset` bytes in `image`, with its hash tree; None if there is none."""
    raw = _at(image, offset, VERITY.size)
    if len(raw) < VERITY.size:
        return None
    (signature, version, kind, uuid, algorithm, data_size, hash_size, blocks, salt_size, salt) = VERITY.unpack(raw)
    if signature != b"verity\0\0" or version != 1 or salt_size > 256:
        return None
    if not all(512 <= size <= 2**19 and size.bit_count() == 1 for size in (data_size, hash_size)):
        return None
    name, salt = _text(algorithm), salt[:salt_size]
    root_hash, tree = None, 1
    if name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
        width = 1 << (hashlib.new(name).digest_size - 1).bit_length()
        top = _at(image, offset + hash_size, hash_size)
        # the root hash of a tree without levels is the hash of the data block itself
        if blocks > 1 and len(top) == hash_size:
            root_hash = hashlib.new(name, salt + top if kind == 1 else top + salt).hexdigest()
        level = blocks
        while level > 1:
            level = -(-level // (hash_size // width))
            tree += level
    return Verity(
        uuid=UUID(bytes=uuid),
        algorithm=name,
        salt=salt.hex(),
        data_block_size=data_size,
        hash_block_size=hash_size,
        data_blocks=blocks,
        size=tree * hash_size,
        root_hash=root_hash,
    )


@dataclass(frozen=True)
class Ext4:
    """`size` and `block_size` are in bytes."""

    label: str
    uuid: UUID
    size: int
    block_size: int


def read_ext4(image: BinaryIO, offset: int) -> Ext4 | None:
    """Read the ext4 in the partition at `offset` bytes in `image`; None if there is none."""
    raw = _at(image, offset + 1024, 1024)
    if len(raw) < 1024 or raw[56:58] != b"\x53\xef":
        return None
    (blocks, bits) = struct.unpack_from("<4xI16xI", raw)
    if bits > 6:
        return None
    high = struct.unpack_from("<I", raw, 0x150)[0] if struct.unpack_from("<I", raw, 0x60)[0] & 0x80 else 0
    size = (blocks | high << 32) * (1024 << bits)
    return Ext4(_text(raw[120:136]), UUID(bytes=raw[104:120]), size, 1024 << bits)
