"""Recognises files that are often mistaken for disk images, by their magic bytes, with a hint for each."""

from typing import BinaryIO

from osbuild.shared.errors import Error

CONVERT = "convert it first: qemu-img convert -O raw {path} disk.img"
# Offset, magic bytes, kind, hint
KINDS = (
    (0, b"PK\x03\x04", "a zip archive", "unpack it first: unzip {path}"),
    (0, b"PK\x05\x06", "an empty zip archive", "download it again"),
    (0, b"\x5d\x00\x00", "compressed with lzma (the old format without a checksum)", "unpack it first: unlzma {path}"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first: 7z x {path}"),
    (0, b"Rar!\x1a\x07", "a rar archive", "unpack it first"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first: unlz4 {path}"),
    (0, b"LZIP", "compressed with lzip", "unpack it first: lzip -d {path}"),
    (0, b"\x89LZO", "compressed with lzop", "unpack it first: lzop -d {path}"),
    (0, b"\x1f\x9d", "compressed with compress (.Z)", "unpack it first: uncompress {path}"),
    (257, b"ustar", "a tar archive", "unpack it first: tar xf {path}"),
    (0, b"QFI\xfb", "a qcow2 disk", CONVERT),
    (0, b"KDMV", "a VMDK disk", CONVERT),
    (0, b"# Disk DescriptorFile", "a VMDK disk", CONVERT),
    (0, b"vhdxfile", "a VHDX disk", CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI disk", CONVERT),
    (0, b"<<< ", "a VDI disk", CONVERT),
    (0, b"hsqs", "a squashfs, such as an update bundle", "give the disk.img of a build; devices install bundles"),
    (32769, b"CD001", "an ISO 9660 medium, such as a seed", "give the disk.img of a build"),
)  # fmt: skip


def refuse_foreign_file(file: BinaryIO, where: str) -> None:
    """Raise `Error` if `file` is of a kind that is not a disk image and has no partition table."""
    file.seek(510)
    if (
        file.read(2) == b"\x55\xaa"
    ):  # a partition table: an installation medium has one, and is an ISO 9660 file system too
        return
    for offset, magic, name, hint in KINDS:
        file.seek(offset)
        if file.read(len(magic)) == magic:
            raise Error(f"this is {name}, not a disk image", where=where, hint=hint.format(path=where))
