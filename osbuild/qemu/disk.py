"""Disk images of machines: formats, and overlays for their writes."""

import os
import shutil
from pathlib import Path

from osbuild.formats import compression, foreign
from osbuild.host.output import check_folder, discard_file
from osbuild.host.run import run_command
from osbuild.qemu.config import Wrap
from osbuild.shared.errors import Error

QCOW2 = b"QFI\xfb"
UNPACK = {compression.ZSTD: "zstd -d", compression.GZIP: "gunzip", compression.XZ: "unxz"}


def image_format(path: Path) -> str:
    """Return `raw` or `qcow2`, from the file's first bytes. Raises `Error` if it is not a disk image."""
    where = str(path)
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except IsADirectoryError:
        raise Error("this is a folder, not a disk image", where=where, hint="name the disk.img in it") from None
    except FileNotFoundError:
        raise Error(
            "this disk image does not exist", where=where, hint="build one: edge-osbuild build PROFILE"
        ) from None
    except OSError as error:
        raise Error(
            f"the disk image cannot be read: {error.strerror}", where=where, hint="check its permissions"
        ) from error
    if head.startswith(QCOW2):
        return "qcow2"
    for magic, program in UNPACK.items():
        if head.startswith(magic):
            raise Error("the disk image is compressed", where=where, hint=f"unpack it first: {program} {path}")
    with path.open("rb") as file:
        foreign.refuse_foreign_file(file, where)
    # UEFI specification 5.3.2: a GPT header in block 1; before it, or alone on SD cards, an MBR with its signature
    if head[512:520] != b"EFI PART" and head[510:512] != b"\x55\xaa":
        raise Error(
            "this is not a disk image: it has no partition table",
            where=where,
            hint="name the disk.img of a build",
        )
    return "raw"


def make_overlay(image: Path, overlay: Path, size: int | None, wrap: Wrap) -> None:
    """Create the qcow2 file `overlay` for changes to `image`, of `size` bytes if it is larger. Raises `Error`."""
    backing_format = image_format(image)
    overlay = overlay.absolute()  # the current folder differs in the sandbox
    arguments = [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        str(image.absolute()),
        "-F",
        backing_format,
        str(overlay),
    ]
    if size is not None:
        if backing_format == "raw" and size < image.stat().st_size:
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
    """Create `overlay` if it does not exist yet. Raises `Error` if `image` was changed after `overlay`."""
    if not os.path.lexists(overlay):
        check_folder(overlay.parent)
        make_overlay(image, overlay, size, wrap)
    elif image_format(overlay) != "qcow2":
        raise Error(
            "this file exists and is not a qcow2 disk", where=str(overlay), hint="name another file to persist to"
        )
    elif image.stat().st_mtime > overlay.stat().st_mtime:
        raise Error(
            f"this disk contains changes to an older {image}, which was built again since",
            where=str(overlay),
            hint=f"remove this disk to start again: rm {overlay}",
        )


def copy_once(template: Path, target: Path) -> None:
    """Copy `template` to `target` unless `target` exists."""
    if not target.exists():
        shutil.copyfile(template, target)


def any_format(path: Path) -> str:
    """Return `raw` or `qcow2` for a further disk, which may be empty. Raises `Error` if it does not exist."""
    if not path.is_file():
        raise Error("this disk does not exist", where=str(path), hint="check the path")
    with path.open("rb") as file:
        return "qcow2" if file.read(len(QCOW2)) == QCOW2 else "raw"


def card_size(image: Path, requested: int | None) -> int:
    """Return the size in bytes of the smallest SD card for `image`: a power of two, at least `requested`.

    Raises `Error` if it is unknown, for a qcow2 file.
    """
    if image_format(image) != "raw" and requested is None:
        raise Error("the size of the SD card for this image is unknown", where=str(image), hint="pass --disk-size")
    minimum = max(image.stat().st_size if image_format(image) == "raw" else 0, requested or 0)
    return 1 << (minimum - 1).bit_length()
