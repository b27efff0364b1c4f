"""Disk images as a machine uses them."""

import os
import shutil
from pathlib import Path

from osbuild.formats import foreign
from osbuild.host.output import check_folder, discard_file
from osbuild.host.run import run_command
from osbuild.qemu.config import Wrap
from osbuild.shared.errors import Error

QCOW2 = b"QFI\xfb"
COMPRESSED = {b"\x28\xb5\x2f\xfd": "zstd -d", b"\x1f\x8b": "gunzip", b"\xfd7zXZ": "unxz"}


def image_format(path: Path) -> str:
    """`raw` or `qcow2`, by the file's first bytes. Raises `Error` on what is no disk image at all."""
    where = str(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except IsADirectoryError:
        raise Error("this is a folder, not a disk image", where=where, hint="name the disk.img inside it") from None
    except FileNotFoundError:
        raise Error("there is no such disk image", where=where, hint="build one: edge-osbuild build PROFILE") from None
    except OSError as error:
        raise Error(f"the disk image cannot be read: {error.strerror}", where=where, hint="check its mode") from error
    if head.startswith(QCOW2):
        return "qcow2"
    for magic, program in COMPRESSED.items():
        if head.startswith(magic):
            raise Error("the disk image is compressed", where=where, hint=f"unpack it first: {program} {path}")
    with path.open("rb") as file:
        foreign.refuse_foreign_file(file, where)
    # UEFI specification 5.3.2: a GPT header in block 1; before it, or alone on SD cards, an MBR with its signature
    if head[512:520] != b"EFI PART" and head[510:512] != b"\x55\xaa":
        raise Error(
            "this is not a disk image: it has no partition table",
            where=where,
            hint="name the disk.img that edge-osbuild build has made",
        )
    return "raw"


def make_overlay(image: Path, overlay: Path, size: int | None, wrap: Wrap) -> None:
    """Make `overlay`, a qcow2 file that keeps what differs from `image`; `size` in bytes if it is to be larger."""
    form = image_format(image)
    overlay = overlay.absolute()  # the sandbox has another current folder
    arguments = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.absolute()), "-F", form, str(overlay)]
    if size is not None:
        if form == "raw" and size < image.stat().st_size:
            raise Error(
                f"the disk would be smaller ({size} bytes) than its image ({image.stat().st_size} bytes)",
                hint="a disk can only grow",
            )
        arguments.append(str(size))
    try:
        run_command(wrap(arguments, [image.absolute(), overlay.parent]))
    except BaseException:
        discard_file(overlay)
        raise


def keep_overlay(image: Path, overlay: Path, size: int | None, wrap: Wrap) -> None:
    """Make `overlay` if it does not exist yet. Raises `Error` if `image` has changed since it was written to."""
    if not os.path.lexists(overlay):
        check_folder(overlay.parent)
        make_overlay(image, overlay, size, wrap)
    elif image_format(overlay) != "qcow2":
        raise Error("this file exists and is no qcow2 disk", where=str(overlay), hint="name another file to persist in")
    elif image.stat().st_mtime > overlay.stat().st_mtime:
        raise Error(
            f"this disk keeps changes to an older {image}, which was made anew since",
            where=str(overlay),
            hint=f"remove it to start afresh: rm {overlay}",
        )


def copy_once(template: Path, target: Path) -> None:
    """Copy `template` to `target` unless that is there already."""
    if not target.exists():
        shutil.copyfile(template, target)


def any_format(path: Path) -> str:
    """`raw` or `qcow2`, of a further disk, which may well be empty. Raises `Error` where there is none."""
    if not path.is_file():
        raise Error("there is no such disk", where=str(path), hint="check the path")
    with path.open("rb") as file:
        return "qcow2" if file.read(len(QCOW2)) == QCOW2 else "raw"


def card_size(image: Path, wanted: int | None) -> int:
    """Bytes of the least SD card that QEMU takes for a raw `image`: a power of two, of at least `wanted` bytes.

    Raises `Error` where that is not known, as of a qcow2 file.
    """
    if image_format(image) != "raw" and wanted is None:
        raise Error("how large a card this is for is not known", where=str(image), hint="say it with --disk-size")
    least = max(image.stat().st_size if image_format(image) == "raw" else 0, wanted or 0)
    return 1 << (least - 1).bit_length()
