"""U-Boot's legacy image format (U-Boot sources, include/image.h), used for boot images.

A header with CRC-32s of itself and of the data is followed by several parts. U-Boot checks an image with `iminfo` and
extracts its parts with `imxtract`. Debian's U-Boot for Raspberry Pis does not read the newer FIT images, because its
CONFIG_FIT is off.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

HEADER = struct.Struct(">7I4B32s")
MAGIC = 0x27051956
LINUX = 5
KERNEL, MULTI, SCRIPT = 2, 4, 6
UNCOMPRESSED = 0
ARCHITECTURES = {Architecture.armv7: 2, Architecture.arm64: 22, Architecture.x86_64: 24}


@dataclass(frozen=True)
class Uimage:
    """The contents of an image: name, time in seconds since 1970, and parts."""

    name: str
    architecture: Architecture | None
    time: int
    parts: tuple[bytes, ...]


@dataclass(frozen=True)
class _UimageHeader:
    """The header's fields that do not follow from the data."""

    architecture: Architecture
    kind: int
    name: str
    time: int = 0
    address: int = 0

    def pack(self, body: bytes) -> bytes:
        """Return the header of the data `body`."""
        fields = [MAGIC, 0, self.time, len(body), self.address, self.address, zlib.crc32(body)]
        kinds = (LINUX, ARCHITECTURES[self.architecture], self.kind, UNCOMPRESSED, self.name.encode()[:32])
        fields[1] = zlib.crc32(HEADER.pack(*fields, *kinds))
        return HEADER.pack(*fields, *kinds)


def pack_multi(parts: Sequence[bytes], architecture: Architecture, name: str, *, time: int) -> bytes:
    """Return an image of several parts, each aligned to four bytes. `name` has up to 32 characters."""
    body = b"".join(len(part).to_bytes(4, "big") for part in parts) + bytes(4)
    for part in parts:
        body += bytes(-len(body) % 4) + part
    return _UimageHeader(architecture, MULTI, name, time).pack(body) + body


def pack_script(text: str, architecture: Architecture, name: str, *, time: int) -> bytes:
    """Return a script for U-Boot's command `source`."""
    data = text.encode()
    body = len(data).to_bytes(4, "big") + bytes(4) + data
    return _UimageHeader(architecture, SCRIPT, name, time).pack(body) + body


def pack_kernel(data: bytes, architecture: Architecture, name: str, *, address: int) -> bytes:
    """Return an image of a program that U-Boot loads to `address` and starts like Linux, with a device tree."""
    return _UimageHeader(architecture, KERNEL, name, address=address).pack(data) + data


def parse_multi(data: bytes, where: str) -> Uimage:
    """Split an image of several parts. Raises `Error` if it is not such an image, or is damaged."""
    if len(data) < HEADER.size or int.from_bytes(data[:4], "big") != MAGIC:
        raise Error("this is not a U-Boot image", where=where)
    _, check, time, size, _, _, body_check, _, machine, kind, _, name = HEADER.unpack_from(data)
    if zlib.crc32(data[:4] + bytes(4) + data[8 : HEADER.size]) != check:
        raise Error("the U-Boot image is damaged: the checksum of its header is wrong", where=where)
    body = data[HEADER.size : HEADER.size + size]
    if len(body) < size or zlib.crc32(body) != body_check:
        raise Error("the U-Boot image is damaged: the checksum of its data is wrong", where=where)
    if kind != MULTI:
        raise Error("this U-Boot image does not have several parts", where=where)
    sizes: list[int] = []
    while True:
        length_field = body[4 * len(sizes) : 4 * len(sizes) + 4]
        if len(length_field) < 4:
            raise Error("the U-Boot image is damaged: its list of parts has no end", where=where)
        if not any(length_field):
            break
        sizes.append(int.from_bytes(length_field, "big"))
    parts, offset = [], 4 * len(sizes) + 4
    for length in sizes:
        if offset + length > size:
            raise Error("the U-Boot image is damaged: a part is longer than the image", where=where)
        parts.append(body[offset : offset + length])
        offset += length + -length % 4
    image_architecture = next(
        (architecture for architecture, number in ARCHITECTURES.items() if number == machine), None
    )
    return Uimage(name.rstrip(b"\0").decode("ascii", "replace"), image_architecture, time, tuple(parts))
