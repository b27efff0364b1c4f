"""A small machine with RAUC and two slots: real partitions, dm-verity and D-Bus, but not an image of this project.

For a bundle it is like a device: partitions of the slots by label, the ESP, and RAUC's service with this project's
configuration. Its boot loader is a file that names the slot.
"""

import itertools
import lzma
import shutil
from pathlib import Path

from conftest import _cpio

from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache, content_key
from osbuild.host.run import run_command
from osbuild.inputs.debian import Deb, PackageArchive, stored_path
from osbuild.qemu.config import DirectKernel
from osbuild.qemu.machine import Machine
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree

PACKAGES = (
    "busybox-static", "dbus", "dosfstools", "e2fsprogs", "fdisk", "kmod", "mount", "python3-minimal", "rauc",
    "rauc-service",
)  # fmt: skip
KERNEL = "linux-image-cloud-amd64"
EARLY = ("virtio_pci", "virtio_blk", "ext4")
LATE = ("loop", "squashfs", "dm-verity", "vfat", "nls_ascii", "nls_cp437", "nls_utf8", "sha256_generic")
SLOT = 8 * 2**20  # bytes of a root
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
for module in $(cat /order); do insmod /modules/$module; done
mount -t ext4 /dev/vda /root
mount --move /dev /root/dev
exec switch_root /root /sbin/test-init
"""
# `primary` names the slot that boots next; `log` lists RAUC's calls of the boot loader.
BACKEND = """\
#!/bin/sh
state=/run/loader
echo "$*" >> $state/log
case $1 in
get-primary) cat $state/primary ;;
set-primary) echo "$2" > $state/primary ;;
get-state) cat "$state/state-$2" ;;
set-state) echo "$3" > "$state/state-$2" ;;
*) exit 1 ;;
esac
"""
START = """\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
stty -F /dev/ttyS0 -echo
for module in MODULES; do modprobe $module; done
mkdir -p /dev/edge /efi /bundles /run/loader /run/dbus /var/lib/rauc
for part in /sys/class/block/vdb?; do
    label=$(sed -n s/^PARTNAME=//p $part/uevent)
    ln -s /dev/${part##*/} /dev/edge/$label
done
mount -t vfat /dev/edge/esp /efi
mount -t ext4 -o ro /dev/vdc /bundles
mkdir -p /efi/EFI/Linux
echo a > /run/loader/primary; echo good > /run/loader/state-a; echo good > /run/loader/state-b
dbus-uuidgen --ensure; dbus-daemon --system --fork
echo READY
exec setsid -c sh -c 'PS1= exec sh </dev/ttyS0 >/dev/ttyS0 2>&1'
"""
_numbers = itertools.count()


def resolve_packages(cache: Cache) -> tuple[tuple[Deb, ...], Deb]:
    """Return the packages of the machine's system, and its kernel's package.

    The kernel's package is only unpacked: its scripts would make an initrd, which is not used.
    """
    archive = PackageArchive(cache, Architecture.x86_64)
    if not (archive.root / "var/lib/apt/lists").exists():
        archive.update_index()
    kernel = next(deb for deb in archive.resolve_packages([KERNEL]) if deb.name.startswith("linux-image-6"))
    return archive.resolve_packages(PACKAGES), kernel


def guest_tools(cache: Cache) -> ToolsTree:
    """Return a tools tree with the machine's programs."""
    return make_tools_tree(cache, resolve_packages(cache)[0], "a machine for RAUC")


def make_guest(cache: Cache) -> tuple[DirectKernel, Path]:
    """Return the kernel, and the system disk, which has everything but bundles and slots. Both are cached."""
    debs, kernel = resolve_packages(cache)

    def make(path: Path) -> None:
        PackageArchive(cache, Architecture.x86_64).download_packages([kernel])
        system = guest_tools(cache)
        path.mkdir()
        root = path / "root"
        shutil.copytree(system.root, root, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys", "run"))
        run_command(["dpkg-deb", "-x", stored_path(cache, kernel), path / "kernel"])
        shutil.copytree(path / "kernel/usr/lib/modules", root / "usr/lib/modules", symlinks=True)
        release = next((root / "usr/lib/modules").iterdir()).name
        system.run_command(["depmod", "-b", root, release], [root])
        for name in ("dev", "proc", "sys", "run", "usr/lib/edge-osbuild"):
            (root / name).mkdir(exist_ok=True)
        write_script(root / "usr/sbin/test-init", START.replace("MODULES", " ".join(LATE)))
        write_script(root / "usr/lib/edge-osbuild/rauc-backend", BACKEND)
        next((path / "kernel/boot").glob("vmlinuz-*")).rename(path / "vmlinuz")
        (path / "initrd").write_bytes(make_initrd(root, root / "usr/lib/modules" / release))
        make_ext4(system, root, path / "disk.img", 2**30)
        shutil.rmtree(root)
        shutil.rmtree(path / "kernel")

    key = content_key(2, INIT, START, BACKEND, EARLY, LATE, kernel.sha256, [deb.sha256 for deb in debs])
    folder = cache.get_or_make("test-guest", key, make)
    arguments = "console=ttyS0 panic=-1 quiet rauc.slot=a"
    return DirectKernel(folder / "vmlinuz", folder / "initrd", arguments), folder / "disk.img"


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def make_initrd(root: Path, modules: Path) -> bytes:
    """Make an initrd with busybox and the modules that are needed to mount the disk, in order of dependency."""
    dependencies = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    names = {Path(path).name.partition(".")[0]: path for path in dependencies}
    order: list[str] = []
    for name in EARLY:
        if name in names:  # built-in modules have no file
            path = names[name]
            order += [module for module in [*reversed(dependencies[path].split()), path] if module not in order]
    entries = [(name, 0o40755, b"") for name in ("bin", "dev", "root", "modules")]
    entries += [("init", 0o100755, INIT.encode()), ("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes())]
    file_names = [Path(path).name.removesuffix(".xz") for path in order]
    entries.append(("order", 0o100644, "\n".join(file_names).encode()))
    for path, name in zip(order, file_names, strict=True):
        data = (modules / path).read_bytes()
        data = lzma.decompress(data) if data[:6] == b"\xfd7zXZ\0" else data
        entries.append((f"modules/{name}", 0o100644, data))
    return _cpio(entries)


def make_ext4(system: ToolsTree, folder: Path, image: Path, size: int) -> None:
    """Make a file system with the contents of `folder` on a whole disk, with the signature of a boot sector."""
    with image.open("wb") as file:
        file.truncate(size)
    system.run_command(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, image], [folder, image.parent]
    )
    with image.open("r+b") as file:
        file.seek(510)
        file.write(b"\x55\xaa")


def make_slot_disk(system: ToolsTree, image: Path) -> None:
    """Make a disk with the partitions of a device. All are empty except the ESP, which has a file system."""
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    mib = 2**20
    table = ["label: gpt", f"size={16 * mib // 512}, name=esp"]
    for slot in "ab":
        table += [f"size={SLOT // 512}, name=root-{slot}", f"size={mib // 512}, name=root-{slot}-verity"]
    system.run_command(["sfdisk", "-q", image], [image.parent], input="\n".join(table) + "\n")
    system.run_command(["mkfs.vfat", "-F", "16", "--offset", "2048", image, str(16 * 1024)], [image.parent])


def run_in_shell(machine: Machine, line: str, timeout: float = 60.0) -> tuple[int, str]:
    """Run `line` in the guest's shell on the console, and return its status and output."""
    mark = f"mark-{next(_numbers)}"
    machine.send(f"echo {mark}; {{ {line}; }} 2>&1; echo {mark}:$?\n")
    match = machine.console.wait_for(rf"{mark}\n([\s\S]*?){mark}:(\d+)", timeout)
    return int(match[2]), match[1].strip()
