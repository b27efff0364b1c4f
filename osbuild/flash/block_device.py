"""Reads block devices from /sys (Linux, Documentation/ABI/stable/sysfs-block)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osbuild.shared.sizes import format_decimal

SECTOR = 512  # unit of `size` and `start` in sysfs, in bytes, whatever the device's own sector size is
# The first one in a device's path in sysfs is its bus. A USB card reader is "usb", whatever bus its cards have.
BUSES = ("usb", "mmc", "nvme", "ata", "virtio", "xen", "vmbus", "scsi", "loop", "nbd", "zram", "md", "dm-", "ram")


@dataclass(frozen=True)
class BlockDevice:
    """A disk, SD card or partition. `size` and `sector`, the size of its logical sectors, are in bytes.

    `number` is MAJOR:MINOR, `disk` the name of a partition's disk, `backing` the file of a loop device.
    """

    name: str
    size: int
    number: str
    model: str = ""
    serial: str = ""
    bus: str = ""
    sector: int = SECTOR
    removable: bool = False
    read_only: bool = False
    disk: str | None = None
    partitions: tuple[str, ...] = ()
    backing: str | None = None

    @property
    def path(self) -> Path:
        """The device file."""
        return Path("/dev", self.name.replace("!", "/"))

    @property
    def title(self) -> str:
        """Model and size, for the user."""
        return f"{self.model or self.backing or 'unknown model'}, {format_decimal(self.size)}"


@dataclass(frozen=True)
class Host:
    """The folder with /sys and /proc; `root` is another folder only for recordings of other hosts."""

    root: Path = Path("/")

    @property
    def block(self) -> Path:
        return self.root / "sys/class/block"

    def list_devices(self) -> list[BlockDevice]:
        """Return every block device, sorted, a disk before its partitions."""
        names = [path.name for path in self.block.iterdir()] if self.block.is_dir() else []
        return sorted(
            (device for name in names if (device := self.find_device(name))), key=lambda device: _order(device.name)
        )

    def find_device(self, name: str) -> BlockDevice | None:
        """Return the device with this name; None if it does not exist (any more)."""
        sysfs = self.block / name
        if not (sysfs / "dev").exists():
            return None
        real = sysfs.resolve()
        disk = real.parent.name if (sysfs / "partition").exists() else None
        parts = tuple(sorted((path.parent.name for path in sysfs.glob("*/partition")), key=_order))
        disk_folder = real.parent if disk else real
        removable = _text(disk_folder / "removable") == "1" or _text(disk_folder / "device/type") == "SD"
        return BlockDevice(
            name=name,
            size=_number(sysfs / "size") * SECTOR,
            number=_text(sysfs / "dev"),
            model=" ".join(filter(None, (_text(disk_folder / "device/vendor", vendor=True), _model(disk_folder)))),
            serial=_text(disk_folder / "device/serial"),
            bus=_bus(disk_folder),
            sector=_number(disk_folder / "queue/logical_block_size") or SECTOR,
            removable=removable,
            read_only=_text(sysfs / "ro") == "1",
            disk=disk,
            partitions=parts,
            backing=_text(sysfs / "loop/backing_file") or None,
        )

    def holders(self, name: str) -> Iterator[str]:
        """Yield devices on top of this one, recursively."""
        folder = self.block / name / "holders"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            yield path.name
            yield from self.holders(path.name)

    def layer(self, name: str) -> str:
        """Return the kind of a device on top of others, from its UUID if it is a device of the device mapper."""
        uuid = _text(self.block / name / "dm/uuid")
        for prefix, kind in (
            ("LVM-", "LVM"),
            ("CRYPT-LUKS", "LUKS"),
            ("CRYPT-", "encryption"),
            ("mpath-", "multipath"),
        ):
            if uuid.startswith(prefix):
                return kind
        return "RAID (md)" if (self.block / name / "md").is_dir() else "device mapper" if uuid else "another device"


def _text(path: Path, *, vendor: bool = False) -> str:
    """Return the text of a file in sysfs, empty if it can't be read. PCI numbers are not vendor names."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return "" if vendor and (text.startswith("0x") or text == "ATA") else text


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _model(disk_folder: Path) -> str:
    """Return the model; an SD card has only a name."""
    return _text(disk_folder / "device/model") or _text(disk_folder / "device/name")


def _bus(disk_folder: Path) -> str:
    parts = disk_folder.parts
    names = parts[parts.index("sys") :] if "sys" in parts else parts
    for bus in BUSES:
        if any(name.startswith(bus) for name in names):
            return bus.rstrip("-")
    return ""


def _order(name: str) -> tuple[str, int, int, str]:
    """Return a sort key that puts sda2 before sda10, and sda before sdaa."""
    digits = name[len(name.rstrip("0123456789")) :]
    stem = name[: len(name) - len(digits)]
    return stem.rstrip("p"), len(stem), int(digits or 0), name
