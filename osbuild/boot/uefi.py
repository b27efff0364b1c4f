"""Boot flow of machines with UEFI: systemd-boot, a unified kernel image for each slot, boots counted by file name.

Which one is booted is in the names too: see `osbuild.agent.boot.systemd_boot`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from osbuild.boot.flow import BootParts, ExtraPartition
from osbuild.config.board import Board
from osbuild.shared.uefi_entries import TRIES

LOADER = "usr/lib/systemd/boot/efi"


class UefiFlow:
    """See `osbuild.boot.flow.Flow`."""

    suffix = "efi"

    def packages(self, board: Board) -> tuple[str, ...]:
        """systemd-boot, and the stub that a unified kernel image begins with."""
        return ("systemd-boot-efi",)

    def write_boot_image(self, parts: BootParts, slot: str, words: str, release: Path, output: Path) -> None:
        """Write a unified kernel image (UAPI.5)."""
        efi = parts.board.architecture.to_efi()
        about = output.with_suffix(".osrel")
        about.write_text(render_os_release(release.read_text()))
        parts.tools.run_command(
            [
                "ukify", "build", f"--linux={parts.kernel.image}", f"--initrd={parts.initrd}", f"--cmdline={words}",
                f"--os-release=@{about}", f"--uname={parts.kernel.release}",
                f"--stub={parts.packages / LOADER / f'linux{efi}.efi.stub'}", f"--efi-arch={efi}",
                f"--output={output}",
            ],
            [parts.packages, parts.kernel.root, parts.initrd, output.parent],
            env={"SOURCE_DATE_EPOCH": "0"},
        )  # fmt: skip
        about.unlink()

    def boot_image_path(self, slot: str) -> str:
        """The first generation, with a counter in its name (systemd-boot(7), Automatic Boot Assessment)."""
        return f"EFI/Linux/edge-1-{slot}+{TRIES}.efi"

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """systemd-boot at its own place and at that for removable media, and its settings."""
        efi = parts.board.architecture.to_efi()
        for name in (f"EFI/BOOT/BOOT{efi.upper()}.EFI", f"EFI/systemd/systemd-boot{efi}.efi"):
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(parts.packages / LOADER / f"systemd-boot{efi}.efi", folder / name)
        (folder / "loader").mkdir()
        (folder / "loader/loader.conf").write_text("timeout 0\neditor no\nauto-firmware no\n")
        (folder / "loader/entries.srel").write_text("type1\n")

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """None: the counters are in the boot partition's file names."""
        return ()

    def patch_disk(self, disk: Path) -> None:
        """Nothing to do."""


def render_os_release(text: str) -> str:
    """What a unified kernel image says of its system, of the image's os-release(5) `text`.

    systemd-boot sorts by IMAGE_ID (or ID) and a version first, and only then by file name, by which slots are chosen
    here: so the first is the same in every image, and there is no version but in the title.
    """
    metadata = dict(line.partition("=")[::2] for line in text.splitlines())
    name, version = (metadata.get(key, "").strip("\"'") for key in ("IMAGE_ID", "IMAGE_VERSION"))
    return f'ID={metadata.get("ID", "linux")}\nIMAGE_ID=edge-osbuild\nPRETTY_NAME="{name} {version}"\n'
