"""Enables and disables devices in a flattened device tree (Devicetree Specification 0.4, chapter 5)."""

import struct
from collections.abc import Mapping

from osbuild.shared.errors import Error

HEADER = struct.Struct(">10I")
MAGIC = 0xD00DFEED
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9


def set_node_status(data: bytes, statuses: Mapping[str, str], where: str) -> bytes:
    """Return the device tree `data` with the property `status` of the nodes in `statuses`, a mapping from node paths.

    Raises `Error` if `data` is not a device tree, or a node is missing.
    """
    if len(data) < HEADER.size or int.from_bytes(data[:4], "big") != MAGIC:
        raise Error("not a device tree", where=where)
    fields = list(HEADER.unpack_from(data))
    structure, strings, length, size = fields[2], fields[3], fields[8], fields[9]
    names = data[strings : strings + length] + b"status\0"
    remaining, structure_block, path = dict(statuses), bytearray(), ""
    offset, inside = structure, structure + size
    while offset + 4 <= inside:
        begin, (token,) = offset, struct.unpack_from(">I", data, offset)
        offset += 4
        if token == BEGIN_NODE:
            name = data[offset : data.index(b"\0", offset)].decode("ascii", "replace")
            offset += (len(name) + 4) & ~3
            path = f"{path.rstrip('/')}/{name}"
            structure_block += data[begin:offset]
            if status := remaining.pop(path, None):
                value = status.encode() + b"\0"
                structure_block += struct.pack(">III", PROPERTY, len(value), length) + value + bytes(-len(value) % 4)
            continue
        if token == END_NODE:
            path = path.rpartition("/")[0] or "/"
        elif token == PROPERTY:
            count, name_offset = struct.unpack_from(">II", data, offset)
            offset += 8 + ((count + 3) & ~3)
            if path in statuses and names[name_offset:].startswith(b"status\0"):
                continue
        structure_block += data[begin:offset]
        if token == END:
            break
    if remaining:
        raise Error(
            f"the device tree has no node {next(iter(remaining))}", where=where, hint="check `qemu.status` of the board"
        )
    fields[2], fields[9] = structure, len(structure_block)
    fields[3], fields[8] = structure + len(structure_block), len(names)
    if strings < structure:
        raise Error("the strings block precedes the structure block, which is not supported", where=where)
    fields[1] = fields[3] + len(names)
    return HEADER.pack(*fields) + data[HEADER.size : structure] + bytes(structure_block) + names
