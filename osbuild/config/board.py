"""Boards: what a kind of hardware needs to boot, in one YAML file per board. A new board needs no code."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from osbuild.config import document
from osbuild.config.checks.kernel import reserved_reason, split_arguments
from osbuild.config.load import LoadedProfile
from osbuild.config.metadata import Size, key
from osbuild.config.scalars import find_nearest
from osbuild.config.values import ValueReader
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error, UsageError

FILE = r"^[A-Za-z0-9_.+-]+(/[A-Za-z0-9_.+-]+)*$"
FILE_FORM = "a relative path"
BOARD = r"^[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?$"
BOARD_FORM = "at most 32 lower-case letters, digits, `_` and `-`"


def _address(help: str) -> dict[str, Any]:
    return key(help, pattern=r"^(0x[0-9a-f]{1,8})?$", form="a number such as `0x8000000`")


@dataclass(frozen=True)
class UBootSettings:
    """Memory addresses and other settings of U-Boot, for the boot flow `uboot`."""

    state_address: str = field(default="", metadata=_address("8 KiB for the boot state"))
    device_tree_address: str = field(default="", metadata=_address("the device tree that the kernel gets"))
    kernel_address: str = field(default="", metadata=_address("the kernel, unpacked on ARM64"))
    image_address: str = field(default="", metadata=_address("the boot image with its initrd"))
    script_address: str = field(default="", metadata=_address("boot.scr"))
    watchdog: str = field(
        default="",
        metadata=key(
            "commands that start the hardware's watchdog before the kernel of a slot on trial; the initrd's driver "
            "takes over"
        ),
    )
    quirks: str = field(
        default="",
        metadata=key(
            "commands that boot.scr begins with; the value of `edge_more` is added to the kernel arguments",
            lines=True,
        ),
    )
    environment_size: int = field(
        default=0,
        metadata=key("bytes of U-Boot's own environment if it is the file uboot.env; otherwise 0", minimum=0),
    )


@dataclass(frozen=True)
class QemuBoard:
    """The QEMU machine that is this board, or the most similar one."""

    machine: str = field(
        default="", metadata=key("value of -machine", pattern=r"^[a-z0-9.,=_-]*$", form="a machine's name")
    )
    cpu: str = field(default="", metadata=key("processor under TCG; empty: the machine's default"))
    firmware: str = field(
        default="uefi", metadata=key("firmware that runs first: UEFI in flash, or U-Boot", choices=("uefi", "uboot"))
    )
    uboot: str = field(default="", metadata=key("U-Boot's file on the ESP, passed to QEMU as its kernel"))
    uboot_address: str = field(
        default="", metadata=_address("address to load U-Boot to, if other than QEMU's address for kernels")
    )
    device_tree: str = field(default="", metadata=key("file on the ESP, passed to QEMU as -dtb"))
    status: dict[str, str] = field(
        default_factory=dict,
        metadata=key(
            "status of devices that U-Boot sees differently from that device tree: path -> `okay` or `disabled`",
            choices=("okay", "disabled"),
        ),
    )
    memory: Size | None = field(default=None, metadata=key("the machine's memory, if it is fixed"))
    cpus: int | None = field(default=None, metadata=key("number of processors, if it is fixed", minimum=1))
    disk: str = field(default="virtio", metadata=key("how the disk is attached", choices=("virtio", "sd")))
    network: str = field(default="virtio", metadata=key("how the network is attached", choices=("virtio", "usb")))
    serial: int = field(
        default=0, metadata=key("which of the machine's serial ports has the console", minimum=0, maximum=3)
    )
    limit: str = field(default="", metadata=key("why no image boots completely on that machine, if none does"))


@dataclass(frozen=True)
class Board:
    """A kind of hardware, or of virtual machine."""

    name: str = field(metadata=key("name of the board", pattern=BOARD, form=BOARD_FORM))
    description: str = field(metadata=key("what the board is, for human readers"))
    architecture: Architecture = field(metadata=key("architecture of the processor"))
    boot: str = field(metadata=key("boot flow", choices=("uefi", "uboot")))
    qemu: QemuBoard = field(
        default_factory=QemuBoard,
        metadata=key("how QEMU emulates the board; without a machine the tests do not boot its images"),
    )
    kernel: str = field(
        default="",
        metadata=key("kernel flavour that the board needs; empty: the profile's", choices=("", "cloud", "generic")),
    )
    console: tuple[str, ...] = field(
        default=(), metadata=key("values of the kernel's console=, the last is /dev/console")
    )
    arguments: tuple[str, ...] = field(default=(), metadata=key("kernel arguments that the hardware needs"))
    modules: tuple[str, ...] = field(
        default=(),
        metadata=key(
            "modules that the initrd needs to find the disk, by pattern below kernel/; none: what most machines need"
        ),
    )
    packages: tuple[str, ...] = field(default=(), metadata=key("Debian packages that `files` come from"))
    files: dict[str, str] = field(
        default_factory=dict,
        metadata=key("file on the ESP -> file in `packages`", keys=FILE, keys_form=FILE_FORM),
    )
    texts: dict[str, str] = field(
        default_factory=dict,
        metadata=key("file on the ESP -> its text", keys=FILE, keys_form=FILE_FORM, lines=True),
    )
    device_trees: tuple[str, ...] = field(
        default=(), metadata=key("device trees by their path in the kernel's package; the first is for unknown models")
    )
    uboot: UBootSettings = field(default_factory=UBootSettings, metadata=key("settings of the boot flow `uboot`"))


def shipped_boards() -> Sequence[str]:
    """Return the names of the shipped boards."""
    return sorted(path.stem for path in paths.BOARDS.glob("*.yaml"))


def load_board(name: str, folder: Path = Path()) -> Board:
    """Read the board called `name`, or the board file with that path, relative to `folder`.

    Raises `UsageError` if it does not exist, and `Error` with file and line if the file is invalid.
    """
    path = paths.resolve_named(name, folder) if "/" in name else paths.BOARDS / f"{name}.yaml"
    if not path.is_file():
        suggestion = find_nearest(name, list(shipped_boards()))
        hint = (
            f"did you mean `{suggestion}`?" if suggestion else f"write a path, or one of: {', '.join(shipped_boards())}"
        )
        raise UsageError(f"no board {document.quote_text(name)}", hint=hint)
    reader = ValueReader(None)
    board = Board(**reader.block(document.read_document(path), Board, "", item=True))
    check_board(board, paths.display_path(path))
    return board


def check_board(board: Board, where: str) -> None:
    """Raise `Error` if settings of a board contradict each other."""
    for argument in (argument for text in board.arguments for argument in split_arguments(text)):
        if reason := reserved_reason(argument):
            message = f"found the kernel argument {document.quote_text(argument)}, {reason}"
            raise Error(message, where=where, hint="remove it from `arguments`")
    if board.boot != "uboot":
        return
    for name in ("script", "state", "device_tree", "kernel", "image"):
        if not getattr(board.uboot, f"{name}_address"):
            raise Error(f"`uboot.{name}_address` is missing", where=where, hint="the boot script needs it")
    for setting, value in (("packages", board.packages), ("device_trees", board.device_trees)):
        if not value:
            raise Error(f"`{setting}` is empty", where=where, hint="a board with U-Boot needs this key")


def default_board(architecture: Architecture) -> Board:
    """Return the default board of an architecture: a virtual or physical machine with UEFI."""
    return load_board(str(architecture))


def board_of(loaded: LoadedProfile) -> Board:
    """Return the board that a profile names, or the default board of its architecture. Raises `Error`."""
    name = loaded.profile.board
    return load_board(name, loaded.folder) if name else default_board(loaded.profile.architecture)
