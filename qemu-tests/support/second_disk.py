"""A second disk in the machine: disks that resemble the booted one, and the disks that a node uses."""

import re
from pathlib import Path

from osbuild.formats import gpt, pe
from osbuild.host.cache import file_digest
from osbuild.host.run import run_command
from osbuild.inspection.boot_images import read_boot_images, read_boot_state
from osbuild.qemu.config import DirectKernel
from osbuild.sandbox.tools_tree import ToolsTree
from support import filesystems
from support.nodes import Node

BLOCK = 4096  # bytes of a block of dm-verity
UNRELATED_PARTITIONS = {
    "esp": ("esp", 64), "root-a": ("root", 64), "root-a-verity": ("root-verity", 16), "root-b": ("root", 64),
    "root-b-verity": ("root-verity", 16), "data": ("linux-generic", 64),
}  # fmt: skip
"""partitions of `make_unrelated_disk`: type (repart.d(5)) and size in MiB"""

# Prints a line for each use of a disk: the use, and the name of the disk. RAUC's slots that are folders are on the ESP,
# which is mounted there.
USE_SCRIPT = r"""
disk() { set -- $(lsblk -ndo PKNAME,KNAME "$(readlink -f "$1")"); echo $1; }
mounted() { disk $(findmnt -nvo SOURCE -t vfat,ext4 $1); }
ls /efi > /dev/null
echo root $(for part in /sys/block/dm-0/slaves/*; do disk /dev/${part##*/}; done | sort -u)
for path in /efi /var; do echo $path $(mounted $path); done
for link in /dev/edge/*; do echo $link $(disk $link); done
rauc status --output-format=json | grep -o '"device":"[^"]*"' | cut -d '"' -f 4 | sort -u | while read -r path; do
    if [ -d $path ]; then echo rauc:$path $(mounted $path); else echo rauc:$path $(disk $path); fi
done
if grep -q '"boot": "uboot"' /usr/lib/edge-osbuild/image.json; then
    echo state $(disk $(PYTHONPATH=/usr/bin/edge-agent python3 -c "$STATE"))
fi
"""
STATE_SCRIPT = (
    "from osbuild.agent.boot import uboot; from osbuild.agent.system import System; "
    "print(uboot.find_state_partition(System()))"
)
SLOTS = ("root-a", "root-a-verity", "root-b", "root-b-verity")
USES = {
    "root", "/efi", "/var", "/dev/edge/disk", "rauc:/efi",
    *(f"/dev/edge/{name}" for name in ("esp", "data", *SLOTS)), *(f"rauc:/dev/edge/{name}" for name in SLOTS),
}  # fmt: skip
"""what `disks_in_use` names on every board"""
UBOOT_USES = {"state", "/dev/edge/uboot-env"}
"""and also on boards with U-Boot"""


def disks_in_use(node: Node) -> dict[str, str]:
    """Return the uses of disks on a node (see `USES`), with the name of each disk."""
    return dict(line.split(" ", 1) for line in node.run(f"STATE='{STATE_SCRIPT}'\n{USE_SCRIPT}").splitlines())


def list_disks(node: Node) -> set[str]:
    """Return the names of all disks of a node."""
    return set(node.run("lsblk -ndo NAME | grep -v -e loop -e nbd -e sr").split())


def copy_disk(source: Path, target: Path) -> Path:
    """Make a sparse copy of a disk image."""
    run_command(["cp", "--sparse=always", source, target])
    return target


def copy_with_flipped_bit(source: Path, target: Path, partition: str, offset: int) -> Path:
    """Make a copy of a disk image with one flipped bit, in the byte at `offset` of a partition."""
    copy_disk(source, target)
    start = next(entry for entry in gpt.read_table(target).partitions if entry.name == partition).offset
    with target.open("r+b") as file:
        file.seek(start + offset)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))
    return target


def make_unrelated_disk(target: Path, tools: ToolsTree) -> Path:
    """Make a disk that is unrelated to any image, but whose partitions and file systems have the same names.

    `tools` has systemd-repart.
    """
    definitions = target.with_suffix(".repart.d")
    definitions.mkdir()
    for number, (name, (kind, size)) in enumerate(UNRELATED_PARTITIONS.items(), start=1):
        text = f"[Partition]\nType={kind}\nLabel={name}\nSizeMinBytes={size}M\nSizeMaxBytes={size}M\n"
        (definitions / f"{number}0-{name}.conf").write_text(text)
    command = ["systemd-repart", "--dry-run=no", "--offline=yes", "--empty=create", "--size=auto"]
    tools.run_command([*command, f"--definitions={definitions}", target], [target.parent])
    for partition in gpt.read_table(target).partitions:
        if not partition.name.endswith("-verity"):
            command = ["mkfs.ext4", "-q", "-L", partition.name, "-E", f"offset={partition.offset}"]
            filesystems.filesystem_tools().run_command(
                [*command, target, f"{partition.size // 1024}k"], [target.parent]
            )
    return target


def direct_kernel(uki: Path, folder: Path) -> DirectKernel:
    """Extract kernel, initrd and kernel command line of a UKI, for a boot without firmware or boot loader."""
    data = uki.read_bytes()
    image = pe.parse_pe(lambda offset, size: data[offset : offset + size], str(uki))
    contents = {section.name: data[section.offset : section.offset + section.size] for section in image.sections}
    for name in ("linux", "initrd"):
        (folder / name).write_bytes(contents[f".{name}"])
    return DirectKernel(folder / "linux", folder / "initrd", contents[".cmdline"].rstrip(b"\0").decode())


def read_counters(disk: Path) -> dict[str, tuple[int | None, int | None]]:
    """Return tries left and done of each slot with a boot image on a disk image, which a machine may be writing to."""
    partitions = gpt.read_table(disk).partitions
    with disk.open("rb") as file:
        esp = next(partition for partition in partitions if partition.name == "esp")
        entries = list(read_boot_images(file, esp, read_boot_state(file, partitions)))
    names = [re.match(r"edge-(?:\d+-)?(\w)\b", Path(entry.path).name) for entry in entries]
    return {name[1]: (entry.tries_left, entry.tries_done) for name, entry in zip(names, entries, strict=True) if name}


def file_digests(paths: tuple[Path, ...]) -> dict[str, str]:
    """Return the sha256 of each file, by its name."""
    return {path.name: file_digest(path) for path in paths}
