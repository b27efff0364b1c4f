"""Which disk the initrd takes: its functions, run by the initrd's own shell over files laid out like sysfs."""

import os
import struct
import subprocess
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from osbuild.boot.initrd import APPLETS, DISK
from osbuild.formats import gpt
from osbuild.host.cache import Cache, content_key
from osbuild.host.run import run_command
from osbuild.inputs.debian import stored_path
from tests.support.archives import recent_archive

LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
LABELS = ("esp", "root-a", "root-a-verity", "root-b", "root-b-verity")
SECTORS = 2048  # of a disk


@pytest.fixture(scope="session")
def shell() -> Path:
    """A folder with the programs of the initrd, and no others."""
    cache = Cache()
    archive = recent_archive(cache)
    (deb,) = [deb for deb in archive.resolve_packages(["busybox-static"]) if deb.name == "busybox-static"]

    def make(path: Path) -> None:
        archive.download_packages([deb])
        run_command(["dpkg-deb", "-x", stored_path(cache, deb), path.parent / "package"])
        path.mkdir()
        (path.parent / "package/usr/bin/busybox").rename(path / "busybox")
        for applet in APPLETS:
            (path / applet).symlink_to("busybox")
        run_command(["rm", "-r", path.parent / "package"])

    return cache.get_or_make("test-busybox", content_key(deb.sha256, APPLETS), make)


def table(guids: dict[str, UUID], *, sector: int = 512, torn: bool = False) -> bytes:
    """A disk with a partition for each label, its GUID from `guids`; if `torn`, without the primary table."""
    data = bytearray(SECTORS * 512)
    end = SECTORS * 512 // sector - 1
    array = -(-128 * 128 // sector)
    entries = b"".join(
        gpt.ENTRY.pack(gpt.LINUX_GENERIC.bytes_le, uuid.bytes_le, 40, 48, 0, label.encode("utf-16-le"))
        for label, uuid in guids.items()
    ).ljust(128 * 128, b"\0")
    for lba, other, first in ((1, end, 2), (end, 1, end - array)):
        if torn and lba == 1:
            continue
        fields = (lba, other, 40, end - array - 1, bytes(16), first, 128, 128, zlib.crc32(entries))
        header = bytearray(gpt.HEADER.pack(gpt.SIGNATURE, 0x10000, gpt.HEADER.size, 0, 0, *fields))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        data[lba * sector : lba * sector + len(header)] = header
        data[first * sector : first * sector + len(entries)] = entries
    return bytes(data)


@dataclass
class Machine:
    """What the initrd sees of a machine, below `root`."""

    root: Path
    shell: Path
    kernel_arguments: list[str] = field(default_factory=list)

    def disk(
        self, name: str, place: str, esp: UUID | None = None, *, labels: tuple[str, ...] = LABELS, sector: int = 512,
        torn: bool = False,
    ) -> UUID:  # fmt: skip
        """Plug in a disk at `place`, a path below /sys/devices; the GUID of its boot partition."""
        esp = esp or uuid4()
        guids = {label: esp if label == "esp" else uuid4() for label in labels}
        folder = self.root / "sys/devices" / place / "block" / name
        write(folder / "queue/logical_block_size", f"{sector}\n")
        write(folder / "size", f"{SECTORS}\n")
        for number, label in enumerate(labels, start=1):
            part = f"{name}p{number}" if name[-1].isdigit() else f"{name}{number}"
            write(folder / part / "partition", f"{number}\n")
            write(folder / part / "uevent", f"DEVNAME={part}\nPARTN={number}\nPARTNAME={label}\n")
            self.link(folder / part)
        self.link(folder)
        write(self.root / "dev" / name, table(guids, sector=sector, torn=torn))
        return esp

    def link(self, folder: Path) -> None:
        target = self.root / "sys/class/block" / folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(folder, target.parent))

    def variable(self, vendor: str, name: str, data: bytes) -> None:
        """An EFI variable: its attributes, then its data."""
        write(self.root / f"sys/firmware/efi/efivars/{name}-{vendor}", struct.pack("<I", 6) + data)

    def loaded_from(self, esp: UUID, name: str = "LoaderDevicePartUUID") -> None:
        """What systemd-boot, or its stub, reports."""
        self.variable(LOADER, name, f"{esp}\0".upper().encode("utf-16-le"))

    def option(self, *nodes: bytes) -> None:
        """The firmware's boot option, with the nodes of its device path."""
        path = b"".join(nodes) + b"\x7f\xff\x04\0"
        text = "UEFI Misc Device 2\0".encode("utf-16-le")
        self.variable(GLOBAL, "BootCurrent", struct.pack("<H", 0x1A))
        self.variable(GLOBAL, "Boot001A", struct.pack("<IH", 1, len(path)) + text + path + b"optional")

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run functions of disk.sh."""
        write(self.root / "cmdline", " ".join(["edge.slot=a", *self.kernel_arguments]) + "\n")
        environment = {"PATH": str(self.shell)}
        text = f"sys={self.root}/sys dev={self.root}/dev cmdline={self.root}/cmdline; . {DISK}; {command}"
        result = subprocess.run([self.shell / "sh", "-c", text], env=environment, capture_output=True, text=True)
        assert result.stderr == "", result.stderr
        return result

    def chosen(self, slot: str = "a", *, refused: str = "", elsewhere: str = "") -> str:
        """The disk that the initrd tries next."""
        return self.run(f'next_disk {slot} "$(booted_partition)" "{refused}" "{elsewhere}"').stdout.strip()


def write(path: Path, data: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def acpi() -> bytes:
    return b"\x02\x01\x0c\0" + struct.pack("<II", 0x0A0341D0, 0)


def pci(device: int, function: int) -> bytes:
    return b"\x01\x01\x06\0" + bytes([function, device])


def sata(port: int) -> bytes:
    return b"\x03\x12\x0a\0" + struct.pack("<HHH", port, 0xFFFF, 0)


def scsi(target: int, unit: int) -> bytes:
    return b"\x03\x02\x08\0" + struct.pack("<HH", target, unit)


def usb(port: int) -> bytes:
    return b"\x03\x05\x06\0" + bytes([port, 0])


NVME = "pci0000:00/0000:00:02.0/0000:01:00.0/nvme/nvme0"
VIRTIO = "pci0000:00/0000:00:1f.0/virtio3"


@pytest.fixture
def machine(tmp_path: Path, shell: Path) -> Machine:
    return Machine(tmp_path, shell)


def test_the_disk_of_the_loaders_partition_is_taken_though_another_sorts_first(machine: Machine) -> None:
    machine.disk("nvme0n1", NVME)
    machine.loaded_from(machine.disk("vda", VIRTIO))
    assert machine.chosen() == "vda"


def test_a_unified_kernel_image_that_the_firmware_starts_itself_says_its_partition_too(machine: Machine) -> None:
    machine.disk("nvme0n1", NVME)
    machine.loaded_from(machine.disk("vda", VIRTIO), "StubDevicePartUUID")
    assert machine.chosen() == "vda"


def test_u_boots_partition_is_taken_from_the_kernel_command_line(machine: Machine) -> None:
    machine.disk("mmcblk0", "platform/mmc0")
    esp = machine.disk("mmcblk1", "platform/mmc1")
    machine.kernel_arguments = [f"edge.esp={esp}", "edge.device=mmc:0"]
    assert machine.chosen() == "mmcblk1"


def test_no_other_disk_is_taken_while_the_booted_one_is_missing(machine: Machine) -> None:
    machine.disk("nvme0n1", NVME)
    machine.loaded_from(uuid4())
    assert machine.chosen(elsewhere="yes") == ""


@pytest.mark.parametrize(("sector", "torn"), [(512, False), (4096, False), (512, True), (4096, True)])
def test_the_partition_table_is_read_whatever_its_sectors_and_from_its_backup(
    machine: Machine, sector: int, torn: bool
) -> None:
    machine.disk("nvme0n1", NVME, sector=sector)
    machine.loaded_from(machine.disk("vda", VIRTIO, sector=sector, torn=torn))
    assert machine.chosen() == "vda"


@pytest.mark.parametrize(
    ("nodes", "place", "other"),
    [
        ([acpi(), pci(0x1F, 0)], VIRTIO, NVME),
        ([acpi(), pci(2, 0), pci(0, 0)], NVME, VIRTIO),
        ([acpi(), pci(0x1F, 2), sata(1)], "pci0000:00/0000:00:1f.2/ata2/host1/target1:0:0/1:0:0:0",
         "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0"),
        ([acpi(), pci(4, 0), scsi(0, 1)], "pci0000:00/0000:00:04.0/virtio1/host2/target2:0:0/2:0:0:1",
         "pci0000:00/0000:00:04.0/virtio1/host2/target2:0:0/2:0:0:0"),
    ],
    ids=["virtio", "nvme", "sata", "scsi"],
)  # fmt: skip
def test_of_two_copies_the_one_that_the_firmware_read_is_taken(
    machine: Machine, nodes: list[bytes], place: str, other: str
) -> None:
    esp = machine.disk("sda", other)
    machine.disk("sdb", place, esp)
    for disk in (other, place):
        for number in (1, 2):
            if f"ata{number}" in disk:
                folder = machine.root / "sys/devices/pci0000:00/0000:00:1f.2" / f"ata{number}/ata_port/ata{number}"
                write(folder / "port_no", f"{number}\n")
    machine.loaded_from(esp)
    machine.option(*nodes)
    assert machine.chosen() == "sdb"
    assert machine.chosen(refused="sdb") == "", "the other copy may only be slower to show up"
    assert machine.chosen(refused="sdb", elsewhere="yes") == "", "a copy never stands in for a disk that is damaged"


def test_if_the_firmware_s_place_has_no_disk_a_copy_elsewhere_is_taken_after_a_while(machine: Machine) -> None:
    """The firmware may number ports in another way than the kernel."""
    esp = machine.disk("sda", "pci0000:00/0000:00:04.0/virtio1/host2/target2:0:5/2:0:5:0")
    machine.loaded_from(esp)
    machine.option(acpi(), pci(4, 0), scsi(0, 0))
    assert machine.chosen() == ""
    assert machine.chosen(elsewhere="yes") == "sda"


@pytest.mark.parametrize(
    "nodes",
    [[], [acpi(), pci(0x1F, 7), b"\x04\x01\x02\0"], [b"\x04\x01\x2a\0" + bytes(38)], [acpi(), b"\x01\x01\xff\xff"]],
    ids=["empty", "node too short", "partition only", "node too long"],
)  # fmt: skip
def test_a_boot_option_that_says_no_place_leaves_the_guid_to_decide(machine: Machine, nodes: list[bytes]) -> None:
    machine.disk("nvme0n1", NVME)
    machine.loaded_from(machine.disk("vda", VIRTIO))
    machine.option(*nodes)
    assert machine.chosen() == "vda"


def test_a_usb_disk_is_known_by_its_controller_only(machine: Machine) -> None:
    esp = machine.disk("nvme0n1", NVME)
    machine.disk("sda", "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host0/target0:0:0/0:0:0:0", esp)
    machine.loaded_from(esp)
    machine.option(acpi(), pci(0x14, 0), usb(1))
    assert machine.chosen() == "sda"


def test_a_disk_that_is_on_no_controller_in_particular_may_be_the_booted_one(machine: Machine) -> None:
    machine.loaded_from(machine.disk("nvme0n1", "virtual/nvme-subsystem/nvme-subsys0"))
    machine.option(acpi(), pci(2, 0), pci(0, 0))
    assert machine.chosen() == "nvme0n1"


@pytest.mark.parametrize(
    ("device", "chosen"), [("mmc:0", "mmcblk0"), ("mmc:1", "mmcblk1"), ("usb:0", "sda"), ("nvme:0", "nvme0n1")]
)
def test_of_two_copies_on_a_board_the_kind_of_device_that_u_boot_read_is_taken(
    machine: Machine, device: str, chosen: str
) -> None:
    esp = machine.disk("mmcblk0", "platform/mmc0")
    machine.disk("mmcblk1", "platform/mmc1", esp)
    machine.disk("nvme0n1", NVME, esp)
    machine.disk("sda", "platform/usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0", esp)
    machine.kernel_arguments = [f"edge.esp={esp}", f"edge.device={device}"]
    assert machine.chosen() == chosen


def test_no_disk_of_another_kind_stands_in_for_the_card_that_u_boot_read(machine: Machine) -> None:
    esp = machine.disk("mmcblk0", "platform/mmc0")
    machine.disk("sda", "platform/usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0", esp)
    machine.kernel_arguments = [f"edge.esp={esp}", "edge.device=mmc:0"]
    assert machine.chosen(refused="mmcblk0", elsewhere="yes") == ""
    machine.disk("mmcblk1", "platform/mmc1", esp)
    assert machine.chosen(refused="mmcblk0", elsewhere="yes") == "mmcblk1", "U-Boot's 0 may be Linux' 1"


def test_without_a_word_of_the_boot_loader_each_disk_with_the_slot_is_tried(machine: Machine) -> None:
    machine.disk("nvme0n1", NVME)
    machine.disk("vda", VIRTIO)
    machine.disk("vdb", "pci0000:00/0000:00:05.0/virtio4", labels=("esp", "root-b", "root-b-verity"))
    assert [machine.chosen(refused=refused) for refused in ("", "nvme0n1", "nvme0n1 vda")] == ["nvme0n1", "vda", ""]
    assert machine.chosen("b", refused="nvme0n1 vda") == "vdb"


@pytest.mark.parametrize(
    ("arguments", "path", "another"),
    [
        ([], None, False),
        ([], "\\EFI\\Linux\\edge-1-a+2-1.efi", True),
        ([], "\\EFI\\Linux\\edge-1-a+0-3.efi", False),
        (["edge.tries=2-1"], None, True),
        (["edge.tries=0-3"], None, False),
        (["edge.tries=a-1"], None, True),
    ],
)
def test_a_further_try_differs_from_a_good_slot_and_from_the_last_try(
    machine: Machine, arguments: list[str], path: str | None, another: bool
) -> None:
    machine.kernel_arguments = arguments
    if path:
        machine.variable(LOADER, "LoaderBootCountPath", f"{path}\0".encode("utf-16-le"))
    assert (machine.run("another_try").returncode == 0) is another
