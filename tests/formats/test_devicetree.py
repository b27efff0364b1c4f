"""Switching devices of a device tree on and off, for U-Boot in QEMU."""

import struct

import pytest

from osbuild.formats.devicetree import set_node_status
from osbuild.shared.errors import Error

STRINGS = b"compatible\0status\0"


def prop(offset: int, value: bytes) -> bytes:
    return struct.pack(">III", 3, len(value), offset) + value + bytes(-len(value) % 4)


def node(name: str, *inner: bytes) -> bytes:
    text = name.encode() + b"\0"
    return struct.pack(">I", 1) + text + bytes(-len(text) % 4) + b"".join(inner) + struct.pack(">I", 2)


def tree(*nodes: bytes) -> bytes:
    structure = node("", prop(0, b"board\0"), *nodes) + struct.pack(">I", 9)
    reserved, begin = bytes(16), 40 + 16
    end = begin + len(structure)
    header = (0xD00DFEED, end + len(STRINGS), begin, end, 40, 17, 16, 0, len(STRINGS), len(structure))
    return struct.pack(">10I", *header) + reserved + structure + STRINGS


def statuses(data: bytes) -> dict[str, list[str]]:
    """Every node's values of `status`, read independently of the code under test: by recursion over the tokens."""
    fields = struct.unpack_from(">10I", data)
    assert fields[1] == len(data)
    values: dict[str, list[str]] = {}

    def walk(place: int, path: str) -> int:
        name = data[place + 4 : data.index(b"\0", place + 4)].decode()
        node_path = f"{path}/{name}" if name else path
        values[node_path] = []
        place += 4 + (len(name) + 4) // 4 * 4
        while True:
            (token,) = struct.unpack_from(">I", data, place)
            if token == 1:
                place = walk(place, node_path)
            elif token == 2:
                return place + 4
            else:
                assert token == 3
                count, offset = struct.unpack_from(">II", data, place + 4)
                label = data[fields[3] + offset : data.index(b"\0", fields[3] + offset)]
                if label == b"status":
                    values[node_path].append(data[place + 12 : place + 12 + count].rstrip(b"\0").decode())
                place += 12 + (count + 3) // 4 * 4

    end = walk(fields[2], "")
    assert data[end : end + 4] == struct.pack(">I", 9)
    assert end + 4 == fields[2] + fields[9] == fields[3]
    return values


SOC = node("soc", node("mmc@1", prop(11, b"okay\0"), prop(0, b"card\0")), node("mmc@2", node("mmc@1")), prop(0, b"x\0"))


def test_only_the_named_nodes_change() -> None:
    changed = set_node_status(tree(SOC), {"/soc/mmc@1": "disabled", "/soc/mmc@2": "okay"}, "tree")
    assert statuses(changed) == {
        "": [], "/soc": [], "/soc/mmc@1": ["disabled"], "/soc/mmc@2": ["okay"], "/soc/mmc@2/mmc@1": []
    }  # fmt: skip


def test_nothing_changes_where_nothing_is_wanted() -> None:
    assert statuses(set_node_status(tree(SOC), {}, "tree")) == statuses(tree(SOC))


def test_a_missing_node_is_named() -> None:
    with pytest.raises(Error, match=r"^board\.dtb: the device tree has no node /soc/mmc@3"):
        set_node_status(tree(SOC), {"/soc/mmc@3": "okay"}, "board.dtb")


@pytest.mark.parametrize("data", [b"", b"\xd0\x0d\xfe\xed", bytes(64)])
def test_a_file_that_is_not_a_device_tree_is_reported(data: bytes) -> None:
    with pytest.raises(Error, match="not a device tree"):
        set_node_status(data, {"/soc": "okay"}, "tree")
