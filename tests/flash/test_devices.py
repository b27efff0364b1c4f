"""What is a disk, what uses it, and which are refused: on folders laid out like /sys and /proc, and on real paths."""

import json
import os
from pathlib import Path

import pytest

from osbuild import cli
from osbuild.flash import target
from osbuild.flash.block_device import BlockDevice, Host
from osbuild.flash.device_usage import list_usages, refuse_device
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.sizes import format_decimal

GB = 10**9


class Machine:
    """A computer's /sys and /proc below a folder, disk by disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.host = Host(root)
        self.minor = 0
        (root / "sys/class/block").mkdir(parents=True)
        (root / "proc/self").mkdir(parents=True)
        self.mountinfo, self.swaps = "", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"

    def put(self, place: Path, **files: str) -> None:
        for name, text in files.items():
            path = place / name.replace("__", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    def disk(self, name: str, bus: str, size: int, **files: str) -> Path:
        self.minor += 1
        place = self.root / "sys/devices" / bus / name
        base = {"dev": f"8:{self.minor}", "size": str(size // 512), "ro": "0", "removable": "0"}
        self.put(place, **{**base, "queue__logical_block_size": "512", **files})
        (place / "holders").mkdir()
        (self.root / "sys/class/block" / name).symlink_to(place)
        return place

    def partition(self, disk: Path, name: str, size: int) -> Path:
        self.minor += 1
        self.put(disk / name, dev=f"8:{self.minor}", size=str(size // 512), ro="0", partition="1")
        (disk / name / "holders").mkdir()
        (self.root / "sys/class/block" / name).symlink_to(disk / name)
        return disk / name

    def on(self, below: Path, name: str, **files: str) -> Path:
        """A device made of another."""
        known = self.root / "sys/devices/virtual/block" / name
        place = known if known.exists() else self.disk(name, "virtual/block", 10 * GB, **files)
        (below / "holders" / name).symlink_to(place)
        return place

    def mount(self, place: Path, where: str, source: str = "/dev/x") -> None:
        self.mountinfo += f"30 1 {(place / 'dev').read_text().strip()} / {where} rw - ext4 {source} rw\n"
        (self.root / "proc/self/mountinfo").write_text(self.mountinfo)

    def swap(self, path: str) -> None:
        self.swaps += f"{path}\tpartition\t1000\t0\t-2\n"
        (self.root / "proc/swaps").write_text(self.swaps)

    def device(self, name: str) -> BlockDevice:
        device = self.host.find_device(name)
        assert device is not None
        return device

    def why(self, name: str, need: int | None = None) -> str | None:
        refusal = refuse_device(self.host, self.device(name), need)
        assert refusal is None or refusal.hint
        return refusal.reason if refusal else None


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_disks_are_described_as_their_owner_knows_them(machine: Machine) -> None:
    stick = machine.disk("sdb", "pci0/usb2/2-1/host6/block", 32 * GB, removable="1",
                         device__vendor="SanDisk ", device__model="Ultra Fit")  # fmt: skip
    machine.partition(stick, "sdb1", GB)
    machine.partition(stick, "sdb10", GB)
    machine.partition(stick, "sdb2", GB)
    machine.disk("mmcblk0", "platform/mmc_host/mmc0/mmc0:0001/block", 16 * GB, device__name="SC16G", device__type="SD")
    machine.disk("nvme0n1", "pci0/nvme/nvme0", 512 * GB, device__model="Disk 980", queue__logical_block_size="4096")
    machine.disk("sda", "pci0/ata1/host0", 2000 * GB, device__vendor="ATA", device__model="WDC", device__serial="W1")
    devices = {device.name: device for device in machine.host.list_devices()}
    assert list(devices) == ["mmcblk0", "nvme0n1", "sda", "sdb", "sdb1", "sdb2", "sdb10"]
    usb, card, nvme, sata = (devices[name] for name in ("sdb", "mmcblk0", "nvme0n1", "sda"))
    assert (usb.title, usb.bus, usb.removable) == ("SanDisk Ultra Fit, 32.0 GB", "usb", True)
    assert usb.partitions == ("sdb1", "sdb2", "sdb10") and devices["sdb2"].disk == "sdb"
    assert (card.title, card.bus, card.removable) == ("SC16G, 16.0 GB", "mmc", True)
    assert (nvme.bus, nvme.sector, nvme.removable) == ("nvme", 4096, False)
    assert (sata.title, sata.bus, sata.serial) == ("WDC, 2.0 TB", "ata", "W1")
    assert all(machine.why(name) is None for name in ("sdb", "mmcblk0", "nvme0n1", "sda"))


def test_the_disk_that_the_system_runs_from_is_refused_through_every_layer(machine: Machine) -> None:
    disk = machine.disk("nvme0n1", "pci0/nvme/nvme0", 512 * GB)
    part = machine.partition(disk, "nvme0n1p3", 500 * GB)
    locked = machine.on(part, "dm-0", dm__uuid="CRYPT-LUKS2-0123-root_crypt")
    volume = machine.on(locked, "dm-1", dm__uuid="LVM-abcdef")
    machine.mount(volume, "/")
    assert machine.why("nvme0n1") == "this system runs from it (/)"
    kinds = {(use.kind, use.user) for use in list_usages(machine.host, machine.device("nvme0n1"))}
    assert {("LUKS", "dm-0"), ("LVM", "dm-1"), ("mounted", "/")} <= kinds


@pytest.mark.parametrize("where", ["/", "/usr", "/boot", "/boot/efi", "/boot/firmware", "/efi", "/var"])
def test_every_mount_of_the_system_makes_its_disk_the_system_disk(machine: Machine, where: str) -> None:
    disk = machine.disk("mmcblk0", "platform/mmc_host/mmc0", 16 * GB)
    machine.mount(machine.partition(disk, "mmcblk0p1", GB), where)
    assert machine.why("mmcblk0") == f"this system runs from it ({where})"


@pytest.mark.parametrize(
    ("uuid", "md", "kind"),
    [("LVM-x", False, "LVM"), ("CRYPT-LUKS1-x", False, "LUKS"), ("CRYPT-PLAIN-x", False, "encryption"),
     ("mpath-x", False, "multipath"), ("", True, "RAID (md)"), ("other", False, "device mapper")],
)  # fmt: skip
def test_a_disk_that_others_are_made_of_is_refused(machine: Machine, uuid: str, md: bool, kind: str) -> None:
    disk = machine.disk("sda", "pci0/ata1", GB)
    part = machine.partition(disk, "sda1", GB)
    machine.on(part, "md0" if md else "dm-0", **({"md__level": "raid1"} if md else {"dm__uuid": uuid}))
    assert machine.why("sda") == f"sda1 is part of {kind} ({'md0' if md else 'dm-0'})"


def test_mounts_swap_and_loop_devices_are_uses(machine: Machine) -> None:
    disk = machine.disk("sda", "pci0/ata1", GB)
    parts = [machine.partition(disk, f"sda{number}", GB) for number in range(1, 5)]
    machine.mount(parts[0], "/media/my\\040stick")
    assert machine.why("sda") == "sda1 is mounted at /media/my stick"
    machine.swap("/dev/sda2")
    machine.disk("loop3", "virtual/block", GB, loop__backing_file="/dev/sda3")
    machine.mountinfo += "31 1 0:44 / /data rw - btrfs /dev/disk/by-uuid/1-2 rw\n"  # btrfs mounts have no device number
    (machine.root / "dev/disk/by-uuid").mkdir(parents=True)
    (machine.root / "dev/disk/by-uuid/1-2").symlink_to("../../sda4")
    (machine.root / "proc/self/mountinfo").write_text(machine.mountinfo)
    assert [str(use) for use in list_usages(machine.host, machine.device("sda"))] == [
        "sda1 is mounted at /media/my stick", "sda2 is in use as swap", "sda3 is in use as loop3",
        "sda4 is mounted at /data",
    ]  # fmt: skip


def test_partitions_empty_drives_locked_and_small_cards_are_refused(machine: Machine) -> None:
    disk = machine.disk("sda", "pci0/usb1", 4 * GB)
    machine.partition(disk, "sda1", GB)
    machine.disk("sdb", "pci0/usb1", 0)
    machine.disk("sdc", "pci0/usb1", GB, ro="1")
    assert "partition" in str(machine.why("sda1")) and machine.why("sda") is None
    assert machine.why("sdb") == "it contains no SD card or disk"
    assert machine.why("sdc") == "it is read-only"
    assert machine.why("sda", 4 * GB) is None
    assert "4.0 GB" in str(machine.why("sda", 4 * GB + 512))


@pytest.mark.parametrize("name", ["/dev/sdzz", "/dev/disk/by-id/usb-nothing", "/dev/new/card.img", "sdb", "mmcblk0p1",
                                  "nvme0n1", "dev/sdb"])  # fmt: skip
def test_a_mistyped_device_never_becomes_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dev").mkdir()
    with pytest.raises(Error, match="this device does not exist") as caught:
        target.find_target(Path(name), Host())
    assert "edge-osbuild devices" in str(caught.value.hint)
    assert [path.name for path in tmp_path.rglob("*")] == ["dev"] and not Path(name).exists()


def test_a_target_that_is_neither_a_device_nor_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "sda").write_text("made by a mistyped dd")
    (tmp_path / "link").symlink_to("/dev/zero")
    neither, device = "neither a block device nor a file", "not a block device"
    wrong = {"fifo": neither, ".": neither, "/dev/zero": device, "link": device, "/dev": "a folder|neither",
             "sda": "regular file, but a device was expected", "no/card.img": "folder does not exist"}  # fmt: skip
    for name, reason in wrong.items():
        with pytest.raises(Error, match=reason) as caught:
            target.find_target(Path(name), Host())
        assert caught.value.hint
    (tmp_path / "card.img").write_bytes(bytes(5000))
    with pytest.raises(Error, match="larger already"):
        target.find_target(Path("card.img"), Host(), size=4096)
    flash_target = target.find_target(Path("card.img"), Host())
    with pytest.raises(Error, match="5000 bytes are not enough"):
        target.check_target(flash_target, 5001, Host())


def test_devices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["devices"], ["devices", "--all"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 0
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["devices", "--all", "--json"])
    listed = {entry["path"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == {str(device.path) for device in Host().list_devices()}
    assert all({"size", "model", "bus", "removable", "uses", "refused"} <= set(entry) for entry in listed.values())


def test_the_root_file_system_of_this_machine_is_on_a_refused_disk() -> None:
    number = Path("/").stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    device_of_root = next((device for device in Host().list_devices() if device.number == name), None)
    if device_of_root is None:
        pytest.skip("the root file system of this machine is on no block device of its own")
    disk = Host().find_device(device_of_root.disk) if device_of_root.disk else device_of_root
    assert disk is not None
    why = refuse_device(Host(), disk)
    assert why is not None and why.reason.startswith("this system runs from it (/")
    with pytest.raises(Error, match="this system runs from it"):
        target.check_target(target.find_target(disk.path, Host()), None, Host())
    with pytest.raises(UsageError, match="can't be changed"):
        target.find_target(disk.path, Host(), size=10**9)


def test_sizes_are_printed_in_decimal_units() -> None:
    assert [format_decimal(size) for size in (999, 1500, 32 * GB, 256 * GB, 2 * 10**12)] == [
        "999 bytes", "1.5 kB", "32.0 GB", "256 GB", "2.0 TB",
    ]  # fmt: skip
