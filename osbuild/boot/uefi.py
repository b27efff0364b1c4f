"""Boot flow of machines with UEFI: systemd-boot, a unified kernel image for each slot, boots counted by file name."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from osbuild.board import Board
from osbuild.boot.flow import Partition, Parts

LOADER = "usr/lib/systemd/boot/efi"
TRIES = 3


class Uefi:
    """See `osbuild.boot.flow.Flow`."""

    suffix = "efi"

    def packages(self, board: Board) -> tuple[str, ...]:
        """systemd-boot, and the stub that a unified kernel image begins with."""
        return ("systemd-boot-efi",)

    def slot_file(self, parts: Parts, slot: str, words: str, release: Path, output: Path) -> None:
        """Write a unified kernel image (UAPI.5)."""
        efi = parts.board.architecture.to_efi()
        parts.tools.run(
            [
                "ukify", "build", f"--linux={parts.kernel.image}", f"--initrd={parts.initrd}", f"--cmdline={words}",
                f"--os-release=@{release}", f"--uname={parts.kernel.release}",
                f"--stub={parts.packages / LOADER / f'linux{efi}.efi.stub'}", f"--efi-arch={efi}",
                f"--output={output}",
            ],
            [parts.packages, parts.kernel.root, parts.initrd, release, output.parent],
            env={"SOURCE_DATE_EPOCH": "0"},
        )  # fmt: skip

    def installed(self, slot: str) -> str:
        """With a counter in its name (systemd-boot(7), Automatic Boot Assessment)."""
        return f"EFI/Linux/edge-{slot}+{TRIES}.efi"

    def fill(self, parts: Parts, folder: Path) -> None:
        """systemd-boot at its own place and at that for removable media, and its settings."""
        efi = parts.board.architecture.to_efi()
        for name in (f"EFI/BOOT/BOOT{efi.upper()}.EFI", f"EFI/systemd/systemd-boot{efi}.efi"):
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(parts.packages / LOADER / f"systemd-boot{efi}.efi", folder / name)
        (folder / "loader").mkdir()
        (folder / "loader/loader.conf").write_text("timeout 0\neditor no\nauto-firmware no\n")
        (folder / "loader/entries.srel").write_text("type1\n")

    def partitions(self) -> Sequence[Partition]:
        """None: the counters are in the boot partition's file names."""
        return ()

    def seal(self, disk: Path) -> None:
        """Nothing to do."""
