"""Boot flow of single-board computers: U-Boot, one checksummed image for each slot, tries counted in a partition.

The script that chooses a slot is boot.scr; what it counts with is described in `osbuild.agent.slotstate`.
"""

import gzip
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from osbuild import gpt
from osbuild.agent import environment, slotstate
from osbuild.arch import Architecture
from osbuild.board import Board
from osbuild.boot import uimage
from osbuild.boot.flow import Partition, Parts
from osbuild.errors import Error

SCRIPT = Path(__file__).with_name("boot.scr")
SECTOR = 512
MIB = 2**20
# Commands that put the kernel to its address, and start it there.
UNPACK = {Architecture.arm64: " && unzip ${fileaddr} ${edge_kernel}", Architecture.armv7: " ${edge_kernel}"}
BOOT = {Architecture.arm64: "booti", Architecture.armv7: "bootz"}
MBR_ENTRY = struct.Struct("<B3sB3sII")  # UEFI specification 2.10, section 5.2.1
FAT32, PROTECTIVE = 0x0C, 0xEE
FAR = b"\xfe\xff\xff"  # a place that cylinder, head and sector can't name


class UBoot:
    """See `osbuild.boot.flow.Flow`."""

    suffix = "img"

    def packages(self, board: Board) -> tuple[str, ...]:
        """Those of the board: U-Boot, and the firmware that starts it."""
        return board.packages

    def slot_file(self, parts: Parts, slot: str, words: str, release: Path, output: Path) -> None:
        """Write kernel, initrd, kernel arguments and every device tree of the board as one image of U-Boot's."""
        board = parts.board
        # U-Boot unpacks the kernel for ARM64; that for ARMv7 unpacks itself.
        packed = board.architecture is Architecture.arm64
        linux = compressed(parts.kernel.image) if packed else parts.kernel.image.read_bytes()
        trees = [parts.kernel.device_tree(name) for name in board.device_trees]
        vendors = {str(Path(name).parent) + "/" for name in board.device_trees if "/" in name}
        about = {
            name: value.strip('"')
            for name, _, value in (line.partition("=") for line in release.read_text().splitlines())
        }
        texts: dict[str, str] = {
            "bootargs": words,
            "edge_vendor": "".join(vendors),
            "edge_trees": " ".join(path.name for path in trees),
            # for those who look into the image
            "kernel": parts.kernel.release,
            **{name: about[name] for name in ("PRETTY_NAME", "IMAGE_VERSION") if name in about},
        }
        lines = "".join(f"{name}={value}\n" for name, value in texts.items())
        files = [linux, parts.initrd.read_bytes(), lines.encode(), *(path.read_bytes() for path in trees)]
        output.write_bytes(uimage.pack(files, board.architecture, f"edge-{slot}", time=parts.epoch))

    def installed(self, slot: str) -> str:
        """At the top, where boot.scr looks; its tries are in the slots' state."""
        return f"edge-{slot}.img"

    def fill(self, parts: Parts, folder: Path) -> None:
        """The board's files and texts, its device trees for U-Boot itself, the script, and U-Boot's own settings."""
        board = parts.board
        for name, source in board.files.items():
            if not (parts.packages / source).is_file():
                raise Error(
                    f"no package of the board has the file {source}", where=f"board {board.name}",
                    hint=f"it is looked for in {', '.join(board.packages)}",
                )  # fmt: skip
            write(folder / name, (parts.packages / source).read_bytes())
        for name, text in board.texts.items():
            write(folder / name, text.encode())
        for tree in map(parts.kernel.device_tree, board.device_trees):
            write(folder / tree.name, tree.read_bytes())
        script = uimage.pack_script(script_text(board), board.architecture, "edge-osbuild", time=parts.epoch)
        write(folder / "boot.scr", script)
        if size := board.uboot.environment_size:
            write(folder / "uboot.env", environment.pack(settings(board), size))

    def partitions(self) -> Sequence[Partition]:
        """The slots' state, in a partition of the type that is for U-Boot's environment."""
        return (Partition(slotstate.PARTITION, str(gpt.UBOOT_ENV), 2 * slotstate.PLACES[1], slotstate.initial()),)

    def seal(self, disk: Path) -> None:
        """Enter the boot partition in the MBR too, before the protective entry: some boot ROMs read nothing else.

        UEFI's specification knows no such hybrid MBR; Linux, U-Boot, libblkid and libfdisk take the disk for GPT as
        long as there is a protective entry from sector 1.
        """
        boot = gpt.read(disk).partitions[0]
        entries = [
            MBR_ENTRY.pack(0, FAR, FAT32, FAR, boot.first_lba, boot.size // SECTOR),
            MBR_ENTRY.pack(0, b"\0\x02\0", PROTECTIVE, FAR, 1, boot.first_lba - 1),
        ]
        with disk.open("r+b") as file:
            file.seek(446)
            file.write(b"".join(entries).ljust(4 * MBR_ENTRY.size, b"\0"))


@lru_cache(maxsize=1)
def compressed(path: Path) -> bytes:
    """A kernel packed with gzip; every slot of a build has the same one."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)


def write(path: Path, data: bytes) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def settings(board: Board) -> dict[str, str]:
    """U-Boot's own environment: to the script at once, never stopped by what a loose serial port seems to receive.

    The one that is built in finds boot.scr too, after a search for USB devices. Nothing ever writes this one.
    """
    load = "load mmc ${devnum}:1 ${scriptaddr} boot.scr"
    found = "setenv devtype mmc; setenv devnum ${devnum}; source ${scriptaddr}"
    return {
        "bootdelay": "-2",
        "scriptaddr": board.uboot.script_address,
        "bootcmd": f"for devnum in 0 1 2; do if {load}; then {found}; fi; done; bootflow scan",
    }


def script_text(board: Board) -> str:
    """boot.scr for a board."""
    values = {
        "STATE": board.uboot.state_address,
        "IMAGE": board.uboot.image_address,
        "KERNEL": board.uboot.kernel_address,
        "TREE": board.uboot.device_tree_address,
        "APART": f"{slotstate.PLACES[1] // SECTOR:x}",
        "UNPACK": UNPACK[board.architecture],
        "BOOT": BOOT[board.architecture],
        "SUFFIX": UBoot.suffix,
        "WATCHDOG": board.uboot.watchdog or "true",
        "QUIRKS": board.uboot.quirks,
    }
    text = SCRIPT.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
