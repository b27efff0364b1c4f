"""Builds the initrd from files: one script, busybox, dmsetup, and the kernel modules that find and open the root."""

import fnmatch
import lzma
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from osbuild.boot.kernel import Kernel
from osbuild.host import log
from osbuild.host.architecture import Architecture
from osbuild.host.cache import content_key, file_digest
from osbuild.host.modes import fixed_mode
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb, PackageArchive, stored_path
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

INIT = Path(__file__).with_name("init")
DISK = Path(__file__).with_name("disk.sh")
INITRD_PACKAGES = (
    "busybox-static",
    "dmsetup",
    "libcap2",
    "libdevmapper1.02.1",
    "libudev1",
    "libselinux1",
    "libpcre2-8-0",
    "libc6",
)
APPLETS = (
    "basename", "cat", "chroot", "cut", "find", "grep", "hexdump", "mkdir", "modprobe", "mount", "readlink", "reboot",
    "sh", "sleep", "sort", "switch_root", "sync", "tr", "umount", "xargs",
)  # fmt: skip
# Patterns of module names below kernel/. ROOT are needed to read the root on every board. DISKS find the disk on boards
# that do not list their own modules.
ROOT = (
    "drivers/md/dm-verity*", "drivers/block/loop*", "fs/erofs/*", "fs/overlayfs/*", "fs/ext4/*",
    # Hashing with the processor's instructions: every block of the root is hashed when it is read.
    "arch/*/crypto/sha256*", "arch/*/crypto/sha2-*",
    "drivers/watchdog/softdog*",
    "fs/efivarfs/*",  # systemd-boot stores the booted disk in an EFI variable
    "crypto/crc32c_generic*",  # checks metadata of erofs and ext4; modules.dep does not list this dependency
)  # fmt: skip
DISKS = (
    "drivers/ata/*", "drivers/block/virtio_blk*", "drivers/nvme/host/nvme.*",
    "drivers/nvme/host/nvme-core*", "drivers/mmc/*", "drivers/scsi/virtio_scsi*", "drivers/scsi/sd_mod*",
    "drivers/scsi/hv_storvsc*", "drivers/scsi/megaraid/*", "drivers/usb/host/*", "drivers/usb/storage/*",
    "drivers/virtio/*", "drivers/hv/hv_vmbus*", "drivers/pci/controller/*",
    "drivers/reset/*", "drivers/clk/bcm/*", "drivers/dma/bcm*", "drivers/mfd/*", "drivers/regulator/*fixed*",
    "drivers/regulator/*gpio*", "drivers/watchdog/*",
    "drivers/i2c/busses/i2c-i801*",  # registers Intel's watchdog on boards whose LPC bridge does not
)  # fmt: skip


@dataclass(frozen=True)
class InitrdRecipe:
    """The inputs of an initrd: the pinned packages, the package of the kernel, and a board's modules.

    `debs` are the pinned packages of `INITRD_PACKAGES`. `modules` are the patterns of modules with which a board finds
    its disk; without any, `DISKS` are used.
    """

    packages: tuple[Deb, ...]
    kernel: Deb
    architecture: Architecture
    modules: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Content key, apart from the tools that pack the initrd."""
        packages = sorted(deb.sha256 for deb in self.packages)
        code = [file_digest(path) for path in (INIT, DISK, Path(__file__))]
        return content_key("initrd", packages, self.kernel.sha256, sorted(self.modules), code)


def build_initrd(context: BuildContext, tools: ToolsTree, kernel: Kernel, recipe: InitrdRecipe) -> Path:
    """A zstd-compressed initrd (cpio, newc) for `kernel`, from the cache if it is there."""
    cache, debs = context.cache, recipe.packages

    def make(path: Path) -> None:
        with log.step("initrd"):
            PackageArchive(cache, recipe.architecture).download_packages(debs, folder=context.downloads)
            packages, root = path.parent / "packages", path.parent / "root"
            for deb in debs:
                package = stored_path(cache, deb)
                tools.run_command(["dpkg-deb", "--extract", package, packages], [path.parent, package])
            (root / "bin").mkdir(parents=True)
            shutil.copy(packages / "usr/bin/busybox", root / "bin/busybox")
            for applet in APPLETS:
                (root / "bin" / applet).symlink_to("busybox")
            (root / "sbin").mkdir()  # the kernel itself calls /sbin/modprobe for file systems and checksums
            (root / "sbin/modprobe").symlink_to("../bin/busybox")
            copy_program(packages, "usr/sbin/dmsetup", root, "bin/dmsetup")
            shutil.copyfile(
                DISK, root / "disk.sh"
            )  # without its mode, which depends on the installation of edge-osbuild
            shutil.copyfile(INIT, root / "init")
            (root / "init").chmod(0o755)
            copy_modules(kernel, root, [*ROOT, *(recipe.modules or DISKS)])
            tools.run_command(["depmod", "-b", root, kernel.release], [path.parent])
            pack_cpio(tools, root, path)

    return cache.get_or_make("initrd", content_key(recipe.key, tools.root.name), make)


def copy_program(source: Path, program: str, target: Path, target_path: str) -> None:
    """Copy an ELF program with its loader and libraries, found by name below `source`. Raises `Error`."""
    from elftools.elf.elffile import ELFFile  # takes time, and most builds have their initrd in the cache

    names = {path.name: path for path in source.rglob("*") if ".so" in path.name}
    pending = [(source / program, target / target_path)]
    copied: set[str] = set()
    while pending:
        path, destination = pending.pop()
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, destination)
        with path.open("rb") as file:
            elf: Any = ELFFile(file)
            section = elf.get_section_by_name(".dynamic")
            needed = [tag.needed for tag in section.iter_tags("DT_NEEDED")]
            loader = [s.get_interp_name() for s in elf.iter_segments("PT_INTERP")]
        for name in {*needed, *(Path(item).name for item in loader)} - copied:
            if name not in names:
                raise Error(f"{program} needs {name}, which no package of the initrd contains")
            copied.add(name)
            folder = next((str(Path(item).parent) for item in loader if Path(item).name == name), None)
            target_folder = target / folder.lstrip("/") if folder else target / "lib"
            pending.append((names[name], target_folder / name))


def copy_modules(kernel: Kernel, root: Path, patterns: Sequence[str]) -> None:
    """Copy the modules that match `patterns`, with their dependencies."""
    depends: dict[str, list[str]] = {}
    for line in (kernel.modules / "modules.dep").read_text().splitlines():
        name, _, needed = line.partition(":")
        depends[name] = needed.split()
    bare = {name: re.sub(r"^kernel/|\.ko.*$", "", name) for name in depends}
    selected: set[str] = set()
    pending = [
        name for name in depends if any(fnmatch.fnmatch(bare[name] + ".", p.rstrip(".") + "*") for p in patterns)
    ]
    while pending:
        name = pending.pop()
        if name not in selected:
            selected.add(name)
            pending += depends[name]
    base = root / "lib/modules" / kernel.release
    for name in sorted(selected):
        target = base / name.removesuffix(".xz")
        target.parent.mkdir(parents=True, exist_ok=True)
        data = (kernel.modules / name).read_bytes()
        # Modules are stored uncompressed, because the initrd is compressed as a whole.
        # Modules are stored uncompressed, because the initrd is compressed as a whole.
        target.write_bytes(lzma.decompress(data) if name.endswith(".xz") else data)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        if (kernel.modules / name).exists():
            shutil.copy(kernel.modules / name, base / name)


def pack_cpio(tools: ToolsTree, root: Path, output: Path) -> None:
    """Write `root` as a reproducible, compressed cpio archive."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(fixed_mode(path.stat().st_mode))
        os.utime(path, (0, 0), follow_symlinks=False)
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*"))) + "\n"
    archive = output.with_name("initrd.cpio")
    tools.run_command(
        ["cpio", "--create", "--format=newc", "--reproducible", "--owner=0:0", "--quiet", "-F", archive],
        [output.parent], cwd=root, input=names,
    )  # fmt: skip
    tools.run_command(["zstd", "-q", "-15", "-T2", archive, "-o", output], [output.parent])
