"""Switches devices of a flattened device tree on and off (Devicetree Specification 0.4, chapter 5)."""

import struct
from collections.abc import Mapping

from osbuild.shared.errors import Error

HEADER = struct.Struct(">10I")
MAGIC = 0xD00DFEED
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9


def set_node_status(data: bytes, wanted: Mapping[str, str], where: str) -> bytes:
    """The tree with the property `status` of nodes, by path, as in `wanted`.

    Raises `Error` where it is no device tree, or a node is missing.
    """
    if len(data) < HEADER.size or int.from_bytes(data[:4], "big") != MAGIC:
        raise Error("not a device tree", where=where)
    fields = list(HEADER.unpack_from(data))
    structure, strings, length, size = fields[2], fields[3], fields[8], fields[9]
    names = data[strings : strings + length] + b"status\0"
    left, made, path = dict(wanted), bytearray(), ""
    place, inside = structure, structure + size
    while place + 4 <= inside:
        begin, (token,) = place, struct.unpack_from(">I", data, place)
        place += 4
        if token == BEGIN_NODE:
            name = data[place : data.index(b"\0", place)].decode("ascii", "replace")
            place += (len(name) + 4) & ~3
            path = f"{path.rstrip('/')}/{name}"
            made += data[begin:place]
            if status := left.pop(path, None):
                value = status.encode() + b"\0"
                made += struct.pack(">III", PROPERTY, len(value), length) + value + bytes(-len(value) % 4)
            continue
        if token == END_NODE:
            path = path.rpartition("/")[0] or "/"
        elif token == PROPERTY:
            count, offset = struct.unpack_from(">II", data, place)
            place += 8 + ((count + 3) & ~3)
            if path in wanted and names[offset:].startswith(b"status\0"):
                continue
        made += data[begin:place]
        if token == END:
            break
    if left:
        raise Error(f"no node {next(iter(left))}", where=where, hint="check `qemu.status` of the board")
    fields[2], fields[9] = structure, len(made)
    fields[3], fields[8] = structure + len(made), len(names)
    if strings < structure:
        raise Error("its strings come before its nodes, which this program can't change", where=where)
    fields[1] = fields[3] + len(names)
    return HEADER.pack(*fields) + data[HEADER.size : structure] + bytes(made) + names
