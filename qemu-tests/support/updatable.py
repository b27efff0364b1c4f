"""A small machine with RAUC and two slots: real partitions, dm-verity and D-Bus, no image of this project.

It stands for a device as far as a bundle sees it: the slots' partitions by label, the boot partition, RAUC's service
with this project's configuration. The boot loader is a file that names the slot.
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
# The first line of a file is the slot that boots; the log is of what RAUC asked the boot loader for.
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


def packages(cache: Cache) -> tuple[tuple[Deb, ...], Deb]:
    """What the machine's system is made of, and its kernel.

    The kernel's package is only unpacked: in a tree for programs its scripts would make an initrd that nobody reads.
    """
    archive = PackageArchive(cache, Architecture.x86_64)
    if not (archive.root / "var/lib/apt/lists").exists():
        archive.update_index()
    kernel = next(deb for deb in archive.resolve_packages([KERNEL]) if deb.name.startswith("linux-image-6"))
    return archive.resolve_packages(PACKAGES), kernel


def programs(cache: Cache) -> ToolsTree:
    """The machine's programs, for use on the host."""
    return make_tools_tree(cache, packages(cache)[0], "a machine for RAUC")


def guest(cache: Cache) -> tuple[DirectKernel, Path]:
    """The kernel, and the disk that everything but bundles and slots is on; both from the cache if they are there."""
    wanted, kernel = packages(cache)

    def make(path: Path) -> None:
        PackageArchive(cache, Architecture.x86_64).download_packages([kernel])
        system = programs(cache)
        path.mkdir()
        root = path / "root"
        shutil.copytree(system.root, root, symlinks=True, ignore=shutil.ignore_patterns("dev", "proc", "sys", "run"))
        run_command(["dpkg-deb", "-x", stored_path(cache, kernel), path / "kernel"])
        shutil.copytree(path / "kernel/usr/lib/modules", root / "usr/lib/modules", symlinks=True)
        release = next((root / "usr/lib/modules").iterdir()).name
        system.run_command(["depmod", "-b", root, release], [root])
        for name in ("dev", "proc", "sys", "run", "usr/lib/edge-osbuild"):
            (root / name).mkdir(exist_ok=True)
        script(root / "usr/sbin/test-init", START.replace("MODULES", " ".join(LATE)))
        script(root / "usr/lib/edge-osbuild/rauc-backend", BACKEND)
        next((path / "kernel/boot").glob("vmlinuz-*")).rename(path / "vmlinuz")
        (path / "initrd").write_bytes(initrd(root, root / "usr/lib/modules" / release))
        ext4(system, root, path / "disk.img", 2**30)
        shutil.rmtree(root)
        shutil.rmtree(path / "kernel")

    key = content_key(2, INIT, START, BACKEND, EARLY, LATE, kernel.sha256, [deb.sha256 for deb in wanted])
    made = cache.get_or_make("test-guest", key, make)
    arguments = "console=ttyS0 panic=-1 quiet rauc.slot=a"
    return DirectKernel(made / "vmlinuz", made / "initrd", arguments), made / "disk.img"


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def initrd(root: Path, modules: Path) -> bytes:
    """Busybox, and the modules without which the disk can't be mounted, in the order in which they need each other."""
    needs = dict(line.split(":") for line in (modules / "modules.dep").read_text().splitlines())
    names = {Path(path).name.partition(".")[0]: path for path in needs}
    order: list[str] = []
    for name in EARLY:
        if name in names:  # those that this kernel has built in are not
            path = names[name]
            order += [each for each in [*reversed(needs[path].split()), path] if each not in order]
    entries = [(name, 0o40755, b"") for name in ("bin", "dev", "root", "modules")]
    entries += [("init", 0o100755, INIT.encode()), ("bin/busybox", 0o100755, (root / "bin/busybox").read_bytes())]
    plain = [Path(path).name.removesuffix(".xz") for path in order]
    entries.append(("order", 0o100644, "\n".join(plain).encode()))
    for path, name in zip(order, plain, strict=True):
        data = (modules / path).read_bytes()
        data = lzma.decompress(data) if data[:6] == b"\xfd7zXZ\0" else data
        entries.append((f"modules/{name}", 0o100644, data))
    return _cpio(entries)


def ext4(system: ToolsTree, folder: Path, image: Path, size: int) -> None:
    """A file system with what is in `folder`, in the whole of a disk that is signed like one with partitions."""
    with image.open("wb") as file:
        file.truncate(size)
    system.run_command(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", folder, image], [folder, image.parent]
    )
    with image.open("r+b") as file:
        file.seek(510)
        file.write(b"\x55\xaa")


def slots(system: ToolsTree, image: Path) -> None:
    """A disk with the partitions that a device has, all empty but for the boot partition's file system."""
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    mib = 2**20
    table = ["label: gpt", f"size={16 * mib // 512}, name=esp"]
    for slot in "ab":
        table += [f"size={SLOT // 512}, name=root-{slot}", f"size={mib // 512}, name=root-{slot}-verity"]
    system.run_command(["sfdisk", "-q", image], [image.parent], input="\n".join(table) + "\n")
    system.run_command(["mkfs.vfat", "-F", "16", "--offset", "2048", image, str(16 * 1024)], [image.parent])


def shell(machine: Machine, line: str, timeout: float = 60.0) -> tuple[int, str]:
    """Type `line` at the guest's shell: its status and what it said."""
    mark = f"mark-{next(_numbers)}"
    machine.send(f"echo {mark}; {{ {line}; }} 2>&1; echo {mark}:$?\n")
    found = machine.console.wait_for(rf"{mark}\n([\s\S]*?){mark}:(\d+)", timeout)
    return int(found[2]), found[1].strip()
