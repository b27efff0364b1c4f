"""A second disk in the machine: disks that resemble the booted one, and which disk a node uses for what."""

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
STRANGER = {
    "esp": ("esp", 64), "root-a": ("root", 64), "root-a-verity": ("root-verity", 16), "root-b": ("root", 64),
    "root-b-verity": ("root-verity", 16), "data": ("linux-generic", 64),
}  # fmt: skip
"""partitions of `stranger`: type (repart.d(5)) and MiB"""

# Prints a line for each thing that is on a disk: its name, and the disk. RAUC's slots that are folders are those of the
# boot partition, which is mounted there.
USED = r"""
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
STATE = (
    "from osbuild.agent.boot import uboot; from osbuild.agent.system import System; "
    "print(uboot.find_state_partition(System()))"
)
SLOTS = ("root-a", "root-a-verity", "root-b", "root-b-verity")
EVERYTHING = {
    "root", "/efi", "/var", "/dev/edge/disk", "rauc:/efi",
    *(f"/dev/edge/{name}" for name in ("esp", "data", *SLOTS)), *(f"rauc:/dev/edge/{name}" for name in SLOTS),
}  # fmt: skip
"""what `used` names on every board"""
WITH_UBOOT = {"state", "/dev/edge/uboot-env"}
"""and on boards with U-Boot besides"""


def used(node: Node) -> dict[str, str]:
    """What a node uses (`EVERYTHING`), and the name of the disk that each is on."""
    return dict(line.split(" ", 1) for line in node.run(f"STATE='{STATE}'\n{USED}").splitlines())


def disks(node: Node) -> set[str]:
    """The names of all disks that the node's kernel knows."""
    return set(node.run("lsblk -ndo NAME | grep -v -e loop -e nbd -e sr").split())


def copied(source: Path, target: Path) -> Path:
    """A sparse copy of a disk image."""
    run_command(["cp", "--sparse=always", source, target])
    return target


def damaged(source: Path, target: Path, partition: str, offset: int) -> Path:
    """A copy of a disk image with one bit of a partition flipped, in the byte at `offset`."""
    copied(source, target)
    start = next(part for part in gpt.read_table(target).partitions if part.name == partition).offset
    with target.open("r+b") as file:
        file.seek(start + offset)
        (byte,) = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 0x10]))
    return target


def stranger(target: Path, tools: ToolsTree) -> Path:
    """A disk that has nothing to do with any image, but whose partitions and file systems have the same names.

    `tools` has systemd-repart.
    """
    definitions = target.with_suffix(".repart.d")
    definitions.mkdir()
    for number, (name, (kind, size)) in enumerate(STRANGER.items(), start=1):
        text = f"[Partition]\nType={kind}\nLabel={name}\nSizeMinBytes={size}M\nSizeMaxBytes={size}M\n"
        (definitions / f"{number}0-{name}.conf").write_text(text)
    words = ["systemd-repart", "--dry-run=no", "--offline=yes", "--empty=create", "--size=auto"]
    tools.run_command([*words, f"--definitions={definitions}", target], [target.parent])
    for part in gpt.read_table(target).partitions:
        if not part.name.endswith("-verity"):
            words = ["mkfs.ext4", "-q", "-L", part.name, "-E", f"offset={part.offset}"]
            filesystems.programs().run_command([*words, target, f"{part.size // 1024}k"], [target.parent])
    return target


def direct_kernel(uki: Path, folder: Path) -> DirectKernel:
    """Kernel, initrd and kernel command line of a unified kernel image, for a boot without firmware or boot loader."""
    data = uki.read_bytes()
    image = pe.parse_pe(lambda offset, size: data[offset : offset + size], str(uki))
    contents = {part.name: data[part.offset : part.offset + part.size] for part in image.sections}
    for name in ("linux", "initrd"):
        (folder / name).write_bytes(contents[f".{name}"])
    return DirectKernel(folder / "linux", folder / "initrd", contents[".cmdline"].rstrip(b"\0").decode())


def counters(disk: Path) -> dict[str, tuple[int | None, int | None]]:
    """Tries left and done of each slot that has a boot file on a disk image, which a machine may be writing to."""
    partitions = gpt.read_table(disk).partitions
    with disk.open("rb") as file:
        boot = next(part for part in partitions if part.name == "esp")
        entries = list(read_boot_images(file, boot, read_boot_state(file, partitions)))
    names = [re.match(r"edge-(?:\d+-)?(\w)\b", Path(entry.path).name) for entry in entries]
    return {name[1]: (entry.tries_left, entry.tries_done) for name, entry in zip(names, entries, strict=True) if name}


def digests(paths: tuple[Path, ...]) -> dict[str, str]:
    """sha256 of each file, by its name."""
    return {path.name: file_digest(path) for path in paths}
