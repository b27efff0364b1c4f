"""Checks an overlay, the file tree that a profile adds to the image, for files that an image can't have."""

import os
import stat
from itertools import accumulate
from pathlib import Path, PurePosixPath

from osbuild.config.checks.account_table import parse_account_table
from osbuild.host.paths import display_path
from osbuild.host.walk import DEEPEST, WalkedFile, walk_folder
from osbuild.shared.errors import Error
from osbuild.shared.image_description import DESCRIPTION_FILE
from osbuild.shared.quoting import escaped

# Links of a merged /usr (file-hierarchy(7)), each to the folder of usr with the same name.
MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
# Files below these paths are not visible on a device: path -> reason.
KEEP = "move the file below usr, and let tmpfiles.d copy it on the device (a line of type `C`, tmpfiles.d(5))"
ELSEWHERE = "move the file below usr or etc"
STATE = "is on the data partition, which is empty on a new device"
LOST = {
    "home": STATE, "mnt": STATE, "opt": STATE, "root": STATE, "srv": STATE, "usr/local": STATE, "var": STATE,
    "boot": "is empty on a device", "dev": "is provided by the kernel", "efi": "is the mount point of the ESP",
    "proc": "is provided by the kernel", "run": "is in memory and empty at every boot",
    "sys": "is provided by the kernel", "tmp": "is in memory and empty at every boot",
    "usr/lib/sysimage/dpkg": "is replaced by the package database",
    "usr/lib/sysimage/pam": "is replaced by the state of pam-auth-update",
}  # fmt: skip
# Files that the build writes after the overlays: path -> hint.
WRITTEN = {
    "etc/machine-id": "each device creates its own",
    "etc/os-release": "write usr/lib/os-release: the image has a link to it here",
    "usr/bin/edge-agent": "the agent is part of edge-osbuild",
    "usr/lib/clock-epoch": "its date is that of the image",
    DESCRIPTION_FILE: "the profile determines its contents",
    "usr/lib/edge-osbuild/kubernetes.json": "the profile's `kubernetes` determines its contents",
    "usr/lib/edge-osbuild/trust.json": "the keys of the build decide (--keys)",
    "usr/lib/issue.d/edge-osbuild-keys.issue": "the keys of the build decide (--keys)",
    "usr/lib/modules-load.d/50-profile.conf": "write `kernel.modules` in the profile, or another file beside it",
    "usr/lib/motd.d/edge-osbuild-keys": "the keys of the build decide (--keys)",
    "usr/lib/rauc/keyring.pem": "the keys of the build decide (--keys)",
    "usr/lib/rauc/system.conf": "the board and the profile determine its contents",
    "usr/lib/sysctl.d/80-profile.conf": "write `kernel.sysctls` in the profile, or another file beside it",
    "usr/lib/tmpfiles.d/00-edge-var.conf": "write another file beside it",
}
# Folders that an overlay must not replace with links: those of packages, and those that the build writes into.
OWNED = {"etc", "usr", "usr/bin", "usr/lib", "usr/sbin", "usr/share"} | {
    str(parent) for path in (*WRITTEN, *LOST) for parent in PurePosixPath(path).parents if parent.name
}
ACCOUNTS = ("etc/passwd", "etc/group")
# Lines of this file that the build writes: name -> key of the profile (os-release(5)).
OS_RELEASE = "usr/lib/os-release"
IDENTITY = {"IMAGE_ID": "name", "IMAGE_VERSION": "version"}
FOLDER = "remove it from the overlay, or make it a folder: its files are added to those of the image"
LARGEST_OS_RELEASE = 2**16  # bytes
LARGEST_ACCOUNTS = 2**20  # bytes
ACCOUNTS_HINT = "correct it, or declare the accounts in usr/lib/sysusers.d instead (sysusers.d(5))"
DROPPED = ("system.posix_acl_", "user.", "trusted.")  # extended attributes that an image does not keep (xattr(7))
WHITEOUT = ".wh."  # before a name, it removes what has that name from the layer below (aufs(5))
KINDS = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}


def check_overlay(overlay: Path, *, largest: int | None = None) -> None:
    """Raise `Error` if a file of `overlay` can't be in an image, or would not be visible on the device.

    `largest` is the size of a slot in bytes.
    """
    linked: dict[tuple[int, int], str] = {}
    try:
        for file in walk_folder(overlay):
            path, status = file.path, file.status
            _place(overlay, path, status.st_mode)
            if kind := KINDS.get(stat.S_IFMT(status.st_mode)):
                hint = "let tmpfiles.d create it on the device (tmpfiles.d(5))"
                raise overlay_error(overlay, path, f"is a {kind}, which an image can't have", hint)
            check_special_bits(overlay, file)
            if str(path) == OS_RELEASE:
                check_os_release(overlay, file)
            if str(path) in ACCOUNTS and file.is_file:
                check_account_table(overlay, file)
            if largest is not None and file.is_file and status.st_size > largest:
                hint = "set a larger `disk.slot` in the profile, or let the device download it"
                raise overlay_error(overlay, path, f"has {status.st_size} bytes, more than a slot of {largest}", hint)
            if status.st_nlink > 1 and not file.is_folder:
                first = linked.setdefault((status.st_dev, status.st_ino), str(path))
                if first != str(path):
                    hint = "make one of them a symbolic link, or a copy"
                    raise overlay_error(overlay, path, f"is the same file as {first}, by a hard link", hint)
    except OSError as error:
        hint = "check its permissions and owner: the build reads every file of an overlay"
        raise Error(f"cannot be read: {error.strerror}", where=f"overlay {display_path(overlay)}", hint=hint) from error


def _place(overlay: Path, path: PurePosixPath, mode: int) -> None:
    top, name = path.parts[0], str(path)
    if len(path.parts) > DEEPEST:
        beginning = PurePosixPath(*path.parts[:5])
        why, hint = f"has more than {DEEPEST} levels of folders below it", "remove some of the levels"
        raise overlay_error(overlay, beginning, why, hint)
    if top in MERGED:
        why = f"would replace /{top}, which is a link to usr/{top}"
        raise overlay_error(overlay, path, why, f"move its files to usr/{top} in the overlay")
    if name in OWNED and not stat.S_ISDIR(mode):
        raise overlay_error(overlay, path, "would replace a folder of the image", FOLDER)
    for hidden in accumulate(path.parts, "{}/{}".format):  # each folder above the path, and the path
        why = LOST.get(hidden, "")
        # The build lets tmpfiles.d create folders and links below /var on the device.
        itself = name == hidden and stat.S_ISDIR(mode)
        is_created = top == "var" != name and stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK)
        if why and not itself and not is_created:
            hint = KEEP if why == STATE or "memory" in why else ELSEWHERE
            raise overlay_error(overlay, path, f"would not be visible on a device: /{hidden} {why}", hint)
    if name in WRITTEN:
        raise overlay_error(overlay, path, "is written by the build", WRITTEN[name])
    if path.name.startswith(WHITEOUT):
        hint = f"rename it; {WHITEOUT}NAME means to remove NAME, which an overlay can't do"
        raise overlay_error(overlay, path, f"has a name that begins with {WHITEOUT}", hint)


def read_limited(overlay: Path, file: WalkedFile, largest: int, hint: str) -> bytes:
    """Return the contents of a file of an overlay. Raises `Error` if it has more than `largest` bytes."""
    with file.opened() as descriptor:
        data = os.pread(descriptor, largest + 1, 0)
    if len(data) > largest:
        raise overlay_error(overlay, file.path, f"has more than {largest} bytes", hint)
    return data


def check_os_release(overlay: Path, file: WalkedFile) -> None:
    """Raise `Error` if an overlay's os-release(5) is not text, or names the image, which the profile does."""
    if not file.is_file:
        raise overlay_error(overlay, file.path, "is not a file", "write the file itself: the build adds lines to it")
    data = read_limited(overlay, file, LARGEST_OS_RELEASE, "see os-release(5)")
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        message = f"has the byte {data[error.start]:#04x} at offset {error.start}"
        raise overlay_error(overlay, file.path, message, "write it as UTF-8 (os-release(5))") from error
    for number, line in enumerate(lines, 1):
        name = line.partition("=")[0].strip()
        if name in IDENTITY:
            hint = f"remove the line, and set `{IDENTITY[name]}` in the profile"
            raise overlay_error(overlay, file.path, f"sets {name} in line {number}, which the build writes", hint)


def check_special_bits(overlay: Path, file: WalkedFile) -> None:
    """Raise `Error` for a setuid file of another user than root, or a setgid file of another group.

    In an image, it would have the rights of root.
    """
    status = file.status
    for bit, name, owner in ((stat.S_ISUID, "setuid", status.st_uid), (stat.S_ISGID, "setgid", status.st_gid)):
        if file.is_file and status.st_mode & bit and owner != 0:
            why = f"is {name} for the {'user' if name == 'setuid' else 'group'} {owner}, but would be {name} for root"
            hint = "make root its owner and set the bit again if root is meant; otherwise remove it: `chmod ug-s`"
            raise overlay_error(overlay, file.path, why, hint)


def check_account_table(overlay: Path, file: WalkedFile) -> None:
    """Raise `Error` if an overlay's passwd(5) or group(5) is not valid."""
    data = read_limited(overlay, file, LARGEST_ACCOUNTS, ACCOUNTS_HINT)
    try:
        parse_account_table(data)
    except ValueError as error:
        raise overlay_error(overlay, file.path, str(error), ACCOUNTS_HINT) from error


def find_dropped_attributes(overlay: Path) -> list[str]:
    """Return files and folders with ACLs or extended attributes that the image does not keep."""
    return [
        str(file.path)
        for file in walk_folder(overlay)
        if not file.is_link
        and any(name.startswith(DROPPED) for name in os.listxattr(f"/proc/self/fd/{file.folder}/{file.path.name}"))
    ]


def find_exposed(overlay: Path) -> list[str]:
    """Return files that only their owner can read here, but every user in the image. None if a umask explains them."""
    modes = {str(file.path): stat.S_IMODE(file.status.st_mode) for file in walk_folder(overlay) if file.is_file}
    private = [path for path, mode in modes.items() if not mode & 0o077 and mode & stat.S_IWUSR and not mode >> 9]
    return private if len(private) < len(modes) else []


def overlay_error(overlay: Path, path: PurePosixPath, why: str, hint: str) -> Error:
    """Return an error about a path in an overlay."""
    return Error(f"/{escaped(str(path))} {why}", where=f"overlay {display_path(overlay)}", hint=hint)
