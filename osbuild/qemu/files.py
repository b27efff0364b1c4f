"""The files of a machine: disks, firmware with its variables, sockets, and the console's log."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from osbuild.formats.devicetree import set_node_status
from osbuild.formats.uimage import pack_kernel
from osbuild.qemu.acceleration import KVM, Accelerator
from osbuild.qemu.config import MachineConfig, Wrap
from osbuild.qemu.disk import any_format, card_size, copy_once, keep_overlay, make_overlay
from osbuild.qemu.firmware import extract_files, find_firmware
from osbuild.shared.errors import Error
from osbuild.shared.locks import lock_descriptor

DISK = "disk0"


@dataclass(frozen=True)
class Drive:
    """One disk. `format` is raw or qcow2; a `volatile` disk needs no fsync on the host.

    `log` is the file for the log of writes. `bus` is the kind of controller, None for the board's own.
    """

    name: str
    path: Path
    format: str
    readonly: bool = False
    volatile: bool = False
    log: Path | None = None
    bus: str | None = None


@dataclass(frozen=True)
class MachineFiles:
    """The paths of one machine: QEMU's sockets, the console's log, disks and firmware."""

    qmp: Path
    console: Path
    log: Path
    drives: tuple[Drive, ...] = ()
    code: Path | None = None
    vars: Path | None = None
    uboot: Path | None = None
    device_tree: Path | None = None

    def visible(self, config: MachineConfig, accelerator: Accelerator) -> list[Path]:
        """Return every path that QEMU opens, including the image below an overlay."""
        direct = config.direct
        firmware = (direct.kernel, direct.initrd) if direct else (self.vars,)
        paths = [self.log.parent, *(drive.path for drive in self.drives)]
        paths += [drive.log for drive in self.drives if drive.log]
        paths += [path.absolute() for path in (config.image, *firmware) if path]
        return [*paths, KVM] if accelerator.name == "kvm" else paths


@contextmanager
def locked_log(log: Path) -> Iterator[None]:
    """Truncate and lock the console's log, so that one machine writes to it. Raises `Error` if another one does."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        try:
            lock_descriptor(file.fileno(), patience=0)
        except BlockingIOError:
            raise Error(
                "another machine writes its console to this log", where=str(log), hint="name another log"
            ) from None
        file.truncate(0)
        yield


def prepare_files(config: MachineConfig, folder: Path, log: Path, *, wrap: Wrap, root: Path) -> MachineFiles:
    """Create the machine's files in `folder`, except its log. Raises `Error` if an input is missing.

    `wrap` runs qemu-img(1), in the root whose path on this host is `root`.
    """
    files = MachineFiles(folder / "qmp", folder / "console", log, prepare_drives(config, folder, wrap))
    board = config.board.qemu
    if config.direct:
        return files
    if board.firmware == "uboot":
        source = config.image or next(iter(config.disks), None)
        if source is None:
            raise Error("this board boots from its disk, but the machine has none", where=f"board {config.board.name}")
        names = [name for name in (board.uboot, board.device_tree) if name]
        copies = extract_files(source, names, folder)
        if board.uboot_address:
            # QEMU loads a raw kernel to an address of its own choice, but a U-Boot image to the address in its header.
            path, address = copies[board.uboot], int(board.uboot_address, 16)
            path.write_bytes(pack_kernel(path.read_bytes(), config.architecture, "U-Boot", address=address))
        if board.status:
            path = copies[board.device_tree]
            path.write_bytes(set_node_status(path.read_bytes(), board.status, board.device_tree))
        return replace(files, uboot=copies.get(board.uboot), device_tree=copies.get(board.device_tree))
    firmware = find_firmware(config.architecture, root)
    store = Path(f"{config.persist.absolute()}.vars") if config.persist else folder / "vars.fd"
    copy_once(firmware.template, store)
    return replace(files, code=firmware.code, vars=store)


def prepare_drives(config: MachineConfig, folder: Path, wrap: Wrap) -> tuple[Drive, ...]:
    """Return the disks in order, the boot disk first. Writes to the image are stored in an overlay. Raises `Error`."""
    drives = []
    size = config.disk_size
    if config.image and config.board.qemu.disk == "sd":
        size = card_size(config.image, size)
    if config.image and config.persist:
        keep_overlay(config.image, config.persist, size, wrap)
        drives.append(Drive(DISK, config.persist.absolute(), "qcow2"))
    elif config.image:
        make_overlay(config.image, folder / "disk.qcow2", size, wrap)
        drives.append(Drive(DISK, folder / "disk.qcow2", "qcow2", volatile=True))
    for number, path in enumerate(config.disks, 1):
        drives.append(Drive(f"disk{number}", path.absolute(), any_format(path)))
    for number, path in enumerate(config.nvme, 1):
        drives.append(Drive(f"nvme{number}", path.absolute(), any_format(path), bus="nvme"))
    if config.write_log:
        if not drives:
            raise Error("the machine has no disk whose writes can be logged", hint="give it an image or a disk")
        config.write_log.touch()
        drives[0] = replace(drives[0], log=config.write_log.absolute(), volatile=True)
    for number, path in enumerate(config.media):
        if not path.is_file():
            raise Error("this file does not exist", where=str(path), hint="make a seed: edge-osbuild seed PROFILE")
        drives.append(Drive(f"media{number}", path.absolute(), "raw", readonly=True))
    return tuple(drives)


def image_identity(image: Path | None) -> tuple[int, int] | None:
    """Return a value that changes if another image replaces this one; None if it is missing."""
    if image is None or not image.exists():
        return None
    stat = image.stat()
    return stat.st_ino, stat.st_mtime_ns
