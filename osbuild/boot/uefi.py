"""Boot flow `uefi`: systemd-boot, a UKI for each slot, tries in file names.

The file names also decide which slot is booted, see `osbuild.agent.boot.systemd_boot`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from osbuild.boot.flow import BootParts, ExtraPartition
from osbuild.config.board import Board
from osbuild.shared.boot_entry import TRIES

LOADER = "usr/lib/systemd/boot/efi"


class UefiFlow:
    """See `osbuild.boot.flow.BootFlow`."""

    suffix = "efi"

    def packages(self, board: Board) -> tuple[str, ...]:
        """Return the package with systemd-boot and the stub for UKIs."""
        return ("systemd-boot-efi",)

    def write_boot_image(self, parts: BootParts, slot: str, arguments: str, os_release: Path, output: Path) -> None:
        """Write a UKI (UAPI.5)."""
        efi = parts.board.architecture.to_efi()
        uki_release = output.with_suffix(".osrel")
        uki_release.write_text(render_os_release(os_release.read_text()))
        parts.tools.run_command(
            [
                "ukify", "build", f"--linux={parts.kernel.image}", f"--initrd={parts.initrd}", f"--cmdline={arguments}",
                f"--os-release=@{uki_release}", f"--uname={parts.kernel.release}",
                f"--stub={parts.packages / LOADER / f'linux{efi}.efi.stub'}", f"--efi-arch={efi}",
                f"--output={output}",
            ],
            [parts.packages, parts.kernel.root, parts.initrd, output.parent],
            env={"SOURCE_DATE_EPOCH": "0"},
        )  # fmt: skip
        uki_release.unlink()

    def boot_image_path(self, slot: str) -> str:
        """Return the path of generation 1 with all tries left (systemd-boot(7), Automatic Boot Assessment)."""
        return f"EFI/Linux/edge-1-{slot}+{TRIES}.efi"

    def fill_esp(self, parts: BootParts, folder: Path) -> None:
        """Write systemd-boot, to its own path and to the path for removable media, and its settings."""
        efi = parts.board.architecture.to_efi()
        for name in (f"EFI/BOOT/BOOT{efi.upper()}.EFI", f"EFI/systemd/systemd-boot{efi}.efi"):
            (folder / name).parent.mkdir(parents=True)
            shutil.copy(parts.packages / LOADER / f"systemd-boot{efi}.efi", folder / name)
        (folder / "loader").mkdir()
        (folder / "loader/loader.conf").write_text("timeout 0\neditor no\nauto-firmware no\n")
        (folder / "loader/entries.srel").write_text("type1\n")

    def extra_partitions(self) -> Sequence[ExtraPartition]:
        """Return no partitions: the boot state is in file names on the ESP."""
        return ()

    def patch_disk(self, disk: Path) -> None:
        """Nothing to do."""


def render_os_release(text: str) -> str:
    """Return the os-release(5) of a UKI, made from the image's os-release `text`."""
    # systemd-boot sorts by IMAGE_ID (or ID) and version before it sorts by file name, and the file name must decide
    # which slot is booted. So IMAGE_ID is the same in every UKI, and only the title contains the version.
    metadata = dict(line.partition("=")[::2] for line in text.splitlines())
    name, version = (metadata.get(key, "").strip("\"'") for key in ("IMAGE_ID", "IMAGE_VERSION"))
    return f'ID={metadata.get("ID", "linux")}\nIMAGE_ID=edge-osbuild\nPRETTY_NAME="{name} {version}"\n'
