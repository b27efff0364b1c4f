"""Boot flow `uboot` of single-board computers: one boot image with a checksum for each slot, tries in a partition.

boot.scr chooses the slot. `osbuild.shared.uboot_state` describes the boot state in the partition.
"""

import gzip
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from osbuild.boot.flow import BootParts, ExtraPartition
from osbuild.config.board import Board
from osbuild.formats import gpt, mbr, uimage
from osbuild.host.architecture import Architecture
from osbuild.shared import uboot_environment, uboot_state
from osbuild.shared.errors import Error

SCRIPT = Path(__file__).with_name("boot.scr")
SECTOR = 512
MIB = 2**20
# Commands that copy the kernel to its address, and start it there.
UNPACK = {Architecture.arm64: " && unzip ${fileaddr} ${edge_kernel}", Architecture.armv7: " ${edge_kernel}"}
BOOT = {Architecture.arm64: "booti", Architecture.armv7: "bootz"}


class UBootFlow:
    """See `osbuild.boot.flow.BootFlow`."""

    suffix = "img"

    def packages(self, board: Board) -> tuple[str, ...]:
        """Return the board's packages: U-Boot, and the firmware that starts it."""
        return board.packages

    def write_boot_image(self, parts: BootParts, slot: str, arguments: str, os_release: Path, output: Path) -> None:
        """Write kernel, initrd, kernel command line and all device trees of the board as one U-Boot image."""
        board = parts.board
        # U-Boot unpacks an ARM64 kernel. An ARMv7 kernel unpacks itself.
        packed = board.architecture is Architecture.arm64
        linux = compress_kernel(parts.kernel.image) if packed else parts.kernel.image.read_bytes()
        device_trees = [parts.kernel.device_tree(name) for name in board.device_trees]
        vendors = {str(Path(name).parent) + "/" for name in board.device_trees if "/" in name}
        release_fields = {
            name: value.strip('"')
            for name, _, value in (line.partition("=") for line in os_release.read_text().splitlines())
        }
        texts: dict[str, str] = {
            "bootargs": arguments,
            "edge_vendor": "".join(vendors),
            "edge_trees": " ".join(path.name for path in device_trees),
            # not read by boot.scr, only by people
            "kernel": parts.kernel.release,
            **{name: release_fields[name] for name in ("PRETTY_NAME", "IMAGE_VERSION") if name in release_fields},
        }
        lines = "".join(f"{name}={value}\n" for name, value in texts.items())
        files = [linux, parts.initrd.read_bytes(), lines.encode(), *(path.read_bytes() for path in device_trees)]
        output.write_bytes(uimage.pack_multi(files, board.architecture, f"edge-{slot}", time=parts.epoch))

    def boot_image_path(self, slot: str) -> str:
        """Return a path in the top folder, where boot.scr looks. Tries are in the boot state, not in the name."""
        return f"edge-{slot}.img"

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """Write the board's files, its device trees for U-Boot itself, boot.scr and U-Boot's settings."""
        board = parts.board
        for name, source in board.files.items():
            if not (parts.packages / source).is_file():
                raise Error(
                    f"no package of the board has the file {source}", where=f"board {board.name}",
                    hint=f"it is searched for in {', '.join(board.packages)}",
                )  # fmt: skip
            write_with_folders(folder / name, (parts.packages / source).read_bytes())
        for name, text in board.texts.items():
            write_with_folders(folder / name, text.encode())
        for device_tree in map(parts.kernel.device_tree, board.device_trees):
            write_with_folders(folder / device_tree.name, device_tree.read_bytes())
        script = uimage.pack_script(render_script(board), board.architecture, "edge-osbuild", time=parts.epoch)
        write_with_folders(folder / "boot.scr", script)
        if size := board.uboot.environment_size:
            write_with_folders(folder / "uboot.env", uboot_environment.pack_environment(uboot_settings(board), size))

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """Return the partition of the boot state. It has the type for U-Boot's environment."""
        return (
            ExtraPartition(
                uboot_state.PARTITION,
                str(gpt.UBOOT_ENV),
                2 * uboot_state.COPY_OFFSETS[1],
                uboot_state.initial_partition(),
            ),
        )

    def patch_disk(self, disk: Path) -> None:
        """Add the ESP to the MBR (a hybrid MBR), because some boot ROMs read only the MBR."""
        # The UEFI specification does not allow a hybrid MBR. Linux, U-Boot, libblkid and libfdisk accept the disk as a
        # GPT disk if a protective entry begins at sector 1.
        boot = gpt.read_table(disk).partitions[0]
        entries = [
            mbr.pack_entry(mbr.FAT32, boot.first_lba, boot.size // SECTOR),
            mbr.pack_entry(mbr.PROTECTIVE, 1, boot.first_lba - 1, first_chs=b"\0\x02\0"),
        ]
        with disk.open("r+b") as file:
            file.seek(mbr.ENTRIES.start)
            file.write(b"".join(entries).ljust(4 * mbr.ENTRY.size, b"\0"))


@lru_cache(maxsize=1)
def compress_kernel(path: Path) -> bytes:
    """Return a kernel compressed with gzip. It is the same for every slot of a build."""
    return gzip.compress(path.read_bytes(), 6, mtime=0)


def write_with_folders(path: Path, data: bytes) -> None:
    """Write a file and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def uboot_settings(board: Board) -> dict[str, str]:
    """Return U-Boot's read-only environment, which starts boot.scr at once."""
    # bootdelay -2: U-Boot does not wait for keys, because noise on an open serial port would stop the boot. U-Boot's
    # built-in environment would find boot.scr too, but only after a search for USB devices.
    load = "load mmc ${devnum}:1 ${scriptaddr} boot.scr"
    start = "setenv devtype mmc; setenv devnum ${devnum}; source ${scriptaddr}"
    return {
        "bootdelay": "-2",
        "scriptaddr": board.uboot.script_address,
        "bootcmd": f"for devnum in 0 1 2; do if {load}; then {start}; fi; done; bootflow scan",
    }


def render_script(board: Board) -> str:
    """Return the text of boot.scr for a board."""
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
