"""Reads the sections of a PE image, the format of a unified kernel image (UKI).

Sources: Microsoft's "PE Format"; UAPI group's "Unified Kernel Image".
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from osbuild.shared.errors import Error

MACHINES = {0x8664: "x86_64", 0xAA64: "arm64", 0x1C0: "armv7", 0x1C2: "armv7", 0x1C4: "armv7"}

Reader = Callable[[int, int], bytes]  # (offset, size) -> bytes, fewer at the end of the file


@dataclass(frozen=True)
class Section:
    """Offset and size of a section's contents in the file, in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class PeImage:
    """`machine` is an architecture as in a profile, or the machine number if it is unknown."""

    machine: str
    sections: tuple[Section, ...]

    def contents(self, name: str, read: Reader) -> bytes | None:
        """Return the contents of the first section of this name, without trailing NULs; None without such a section."""
        for section in self.sections:
            if section.name == name:
                return read(section.offset, section.size).rstrip(b"\0")
        return None


def parse_pe(read: Reader, where: str) -> PeImage:
    """Parse the section table of a PE file. Raises `Error` if it is not a PE file or is truncated."""
    dos = read(0, 64)
    if len(dos) < 64 or dos[:2] != b"MZ":
        raise Error("not a PE image", where=where)
    (start,) = struct.unpack_from("<I", dos, 60)
    coff = read(start, 24)
    if len(coff) < 24 or coff[:4] != b"PE\0\0":
        raise Error("not a PE image", where=where)
    machine, count, optional = struct.unpack_from("<HH12xH", coff, 4)
    table = read(start + 24 + optional, 40 * count)
    if len(table) < 40 * count:
        raise Error("the PE image is truncated", where=where)
    sections = []
    for index in range(0, 40 * count, 40):
        name, virtual, raw, offset = struct.unpack_from("<8sI4xII", table, index)
        text = name.rstrip(b"\0").decode("ascii", "replace")
        sections.append(Section(text, offset, min(virtual, raw) if virtual else raw))
    return PeImage(MACHINES.get(machine, f"{machine:#06x}"), tuple(sections))
