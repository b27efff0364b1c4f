"""Boot flow of single-board computers: U-Boot, one checksummed image for each slot, tries counted in a partition.

The script that chooses a slot is boot.scr; what it counts with is described in `osbuild.shared.uboot_state`.
"""

import gzip
import struct
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from osbuild.boot.flow import BootParts, ExtraPartition
from osbuild.config.board import Board
from osbuild.formats import gpt, uimage
from osbuild.host.architecture import Architecture
from osbuild.shared import uboot_environment, uboot_state
from osbuild.shared.errors import Error

SCRIPT = Path(__file__).with_name("boot.scr")
SECTOR = 512
MIB = 2**20
# Commands that put the kernel to its address, and start it there.
UNPACK = {Architecture.arm64: " && unzip ${fileaddr} ${edge_kernel}", Architecture.armv7: " ${edge_kernel}"}
BOOT = {Architecture.arm64: "booti", Architecture.armv7: "bootz"}
MBR_ENTRY = struct.Struct("<B3sB3sII")  # UEFI specification 2.10, section 5.2.1
FAT32, PROTECTIVE = 0x0C, 0xEE
FAR = b"\xfe\xff\xff"  # a place that cylinder, head and sector can't name


class UBootFlow:
    """See `osbuild.boot.flow.Flow`."""

    suffix = "img"

    def packages(self, board: Board) -> tuple[str, ...]:
        """Those of the board: U-Boot, and the firmware that starts it."""
        return board.packages

    def write_boot_image(self, parts: BootParts, slot: str, words: str, release: Path, output: Path) -> None:
        """Write kernel, initrd, kernel arguments and every device tree of the board as one image of U-Boot's."""
        board = parts.board
        # U-Boot unpacks the kernel for ARM64; that for ARMv7 unpacks itself.
        packed = board.architecture is Architecture.arm64
        linux = compress_kernel(parts.kernel.image) if packed else parts.kernel.image.read_bytes()
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
        output.write_bytes(uimage.pack_multi(files, board.architecture, f"edge-{slot}", time=parts.epoch))

    def boot_image_path(self, slot: str) -> str:
        """At the top, where boot.scr looks; its tries are in the slots' state."""
        return f"edge-{slot}.img"

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """The board's files and texts, its device trees for U-Boot itself, the script, and U-Boot's own settings."""
        board = parts.board
        for name, source in board.files.items():
            if not (parts.packages / source).is_file():
                raise Error(
                    f"no package of the board has the file {source}", where=f"board {board.name}",
                    hint=f"it is looked for in {', '.join(board.packages)}",
                )  # fmt: skip
            write_with_folders(folder / name, (parts.packages / source).read_bytes())
        for name, text in board.texts.items():
            write_with_folders(folder / name, text.encode())
        for tree in map(parts.kernel.device_tree, board.device_trees):
            write_with_folders(folder / tree.name, tree.read_bytes())
        script = uimage.pack_script(render_script(board), board.architecture, "edge-osbuild", time=parts.epoch)
        write_with_folders(folder / "boot.scr", script)
        if size := board.uboot.environment_size:
            write_with_folders(folder / "uboot.env", uboot_environment.pack_environment(uboot_settings(board), size))

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """The slots' state, in a partition of the type that is for U-Boot's environment."""
        return (
            ExtraPartition(
                uboot_state.PARTITION,
                str(gpt.UBOOT_ENV),
                2 * uboot_state.COPY_OFFSETS[1],
                uboot_state.initial_partition(),
            ),
        )

    def patch_disk(self, disk: Path) -> None:
        """Enter the boot partition in the MBR too, before the protective entry: some boot ROMs read nothing else.

        UEFI's specification knows no such hybrid MBR; Linux, U-Boot, libblkid and libfdisk take the disk for GPT as
        long as there is a protective entry from sector 1.
        """
        boot = gpt.read_table(disk).partitions[0]
        entries = [
            MBR_ENTRY.pack(0, FAR, FAT32, FAR, boot.first_lba, boot.size // SECTOR),
            MBR_ENTRY.pack(0, b"\0\x02\0", PROTECTIVE, FAR, 1, boot.first_lba - 1),
        ]
        with disk.open("r+b") as file:
            file.seek(446)
            file.write(b"".join(entries).ljust(4 * MBR_ENTRY.size, b"\0"))


@lru_cache(maxsize=1)
def compress_kernel(path: Path) -> bytes:
    """A kernel packed with gzip; every slot of a build has the same one."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)


def write_with_folders(path: Path, data: bytes) -> None:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def uboot_settings(board: Board) -> dict[str, str]:
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


def render_script(board: Board) -> str:
    """boot.scr for a board."""
    values = {
        "STATE": board.uboot.state_address,
        "IMAGE": board.uboot.image_address,
        "KERNEL": board.uboot.kernel_address,
        "TREE": board.uboot.device_tree_address,
        "APART": f"{uboot_state.COPY_OFFSETS[1] // SECTOR:x}",
        "UNPACK": UNPACK[board.architecture],
        "BOOT": BOOT[board.architecture],
        "SUFFIX": UBootFlow.suffix,
        "WATCHDOG": board.uboot.watchdog or "true",
        "QUIRKS": board.uboot.quirks,
    }
    text = SCRIPT.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
