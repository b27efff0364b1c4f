"""The files that a machine works with: its disks, the firmware and its variables, sockets, the console's log."""

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
    """One disk: `format` is raw or qcow2; `volatile` means that the host need not write it through to its disk.

    `log` takes a log of what is written to it. `bus` is the kind of controller, None the board's own.
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
    """What a machine works with: sockets that QEMU connects to, the log, its disks, its firmware."""

    qmp: Path
    console: Path
    log: Path
    drives: tuple[Drive, ...] = ()
    code: Path | None = None
    vars: Path | None = None
    uboot: Path | None = None
    device_tree: Path | None = None

    def visible(self, config: MachineConfig, accelerator: Accelerator) -> list[Path]:
        """Every path that QEMU opens, the image below an overlay included."""
        direct = config.direct
        firmware = (direct.kernel, direct.initrd) if direct else (self.vars,)
        paths = [self.log.parent, *(drive.path for drive in self.drives)]
        paths += [drive.log for drive in self.drives if drive.log]
        paths += [path.absolute() for path in (config.image, *firmware) if path]
        return [*paths, KVM] if accelerator.name == "kvm" else paths


@contextmanager
def own_log(log: Path) -> Iterator[None]:
    """Begin the console's log, for one machine alone: what is read there of another would be taken for its own.

    Raises `Error` where a machine has it already.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        try:
            lock_descriptor(file.fileno(), patience=0)
        except BlockingIOError:
            raise Error("another machine's console is written there", where=str(log), hint="name another log") from None
        file.truncate(0)
        yield


def prepare_files(config: MachineConfig, folder: Path, log: Path, *, wrap: Wrap, root: Path) -> MachineFiles:
    """Make in `folder` what the machine writes to but its log.

    `wrap` runs qemu-img(1), in the root whose path on this host is `root`. Raises `Error` where something is missing.
    """
    files = MachineFiles(folder / "qmp", folder / "console", log, prepare_drives(config, folder, wrap))
    board = config.board.qemu
    if config.direct:
        return files
    if board.firmware == "uboot":
        source = config.image or next(iter(config.disks), None)
        if source is None:
            raise Error("this board boots from its disk, and it has none", where=f"board {config.board.name}")
        names = [name for name in (board.uboot, board.device_tree) if name]
        copies = extract_files(source, names, folder)
        if board.uboot_address:
            # A raw kernel goes to an address of QEMU's own choice, one with a header of U-Boot's to that in the header.
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
    """The disks in their order, the one that boots first; what the machine writes to the image goes to an overlay."""
    made = []
    size = config.disk_size
    if config.image and config.board.qemu.disk == "sd":
        size = card_size(config.image, size)
    if config.image and config.persist:
        keep_overlay(config.image, config.persist, size, wrap)
        made.append(Drive(DISK, config.persist.absolute(), "qcow2"))
    elif config.image:
        make_overlay(config.image, folder / "disk.qcow2", size, wrap)
        made.append(Drive(DISK, folder / "disk.qcow2", "qcow2", volatile=True))
    for number, path in enumerate(config.disks, 1):
        made.append(Drive(f"disk{number}", path.absolute(), any_format(path)))
    for number, path in enumerate(config.nvme, 1):
        made.append(Drive(f"nvme{number}", path.absolute(), any_format(path), bus="nvme"))
    if config.write_log:
        if not made:
            raise Error("there is no disk whose writes could be logged", hint="give the machine an image or a disk")
        config.write_log.touch()
        made[0] = replace(made[0], log=config.write_log.absolute(), volatile=True)
    for number, path in enumerate(config.media):
        if not path.is_file():
            raise Error("there is no such file", where=str(path), hint="make a seed: edge-osbuild seed PROFILE")
        made.append(Drive(f"media{number}", path.absolute(), "raw", readonly=True))
    return tuple(made)


def image_identity(image: Path | None) -> tuple[int, int] | None:
    """What tells an image from another one that was put in its place; None for one that is missing."""
    if image is None or not image.exists():
        return None
    stat = image.stat()
    return stat.st_ino, stat.st_mtime_ns
