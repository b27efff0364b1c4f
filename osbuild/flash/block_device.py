"""Block devices as the kernel shows them below /sys (Linux, Documentation/ABI/stable/sysfs-block)."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from osbuild.shared.sizes import format_decimal

SECTOR = 512  # bytes that `size` and `start` of sysfs count in, whatever the device's own sectors are
# The first that is part of a device's path in sysfs; a card reader at USB is "usb", its own bus does not matter.
BUSES = ("usb", "mmc", "nvme", "ata", "virtio", "xen", "vmbus", "scsi", "loop", "nbd", "zram", "md", "dm-", "ram")


@dataclass(frozen=True)
class BlockDevice:
    """A disk, card or partition. `size` and `sector`, that which it is addressed by, are in bytes.

    `number` is MAJOR:MINOR, `disk` the name of the disk that a partition is on, `backing` the file of a loop device.
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
        """Where it is written to."""
        return Path("/dev", self.name.replace("!", "/"))

    @property
    def title(self) -> str:
        """Model and size, by which a person knows it."""
        return f"{self.model or self.backing or 'unknown model'}, {format_decimal(self.size)}"


@dataclass(frozen=True)
class Host:
    """Where /sys and /proc are: `root` is another folder only to look at what was recorded elsewhere."""

    root: Path = Path("/")

    @property
    def block(self) -> Path:
        return self.root / "sys/class/block"

    def list_devices(self) -> list[BlockDevice]:
        """Every block device, those of one disk together."""
        names = [path.name for path in self.block.iterdir()] if self.block.is_dir() else []
        return sorted(
            (found for name in names if (found := self.find_device(name))), key=lambda found: _order(found.name)
        )

    def find_device(self, name: str) -> BlockDevice | None:
        """The device of this name, None if there is none (any more)."""
        place = self.block / name
        if not (place / "dev").exists():
            return None
        real = place.resolve()
        disk = real.parent.name if (place / "partition").exists() else None
        parts = tuple(sorted((path.parent.name for path in place.glob("*/partition")), key=_order))
        whole = real.parent if disk else real
        removable = _text(whole / "removable") == "1" or _text(whole / "device/type") == "SD"
        return BlockDevice(
            name=name,
            size=_number(place / "size") * SECTOR,
            number=_text(place / "dev"),
            model=" ".join(filter(None, (_text(whole / "device/vendor", vendor=True), _model(whole)))),
            serial=_text(whole / "device/serial"),
            bus=_bus(whole),
            sector=_number(whole / "queue/logical_block_size") or SECTOR,
            removable=removable,
            read_only=_text(place / "ro") == "1",
            disk=disk,
            partitions=parts,
            backing=_text(place / "loop/backing_file") or None,
        )

    def holders(self, name: str) -> Iterator[str]:
        """Devices made on top of this one, and those on top of them."""
        folder = self.block / name / "holders"
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            yield path.name
            yield from self.holders(path.name)

    def layer(self, name: str) -> str:
        """What a device on top of others is, in words; by the prefix of its UUID where the device mapper made it."""
        uuid = _text(self.block / name / "dm/uuid")
        for prefix, word in (
            ("LVM-", "LVM"),
            ("CRYPT-LUKS", "LUKS"),
            ("CRYPT-", "encryption"),
            ("mpath-", "multipath"),
        ):
            if uuid.startswith(prefix):
                return word
        return "RAID (md)" if (self.block / name / "md").is_dir() else "device mapper" if uuid else "another device"


def _text(path: Path, *, vendor: bool = False) -> str:
    """What a file of sysfs says, nothing where it can't be read. A PCI number is no vendor's name."""
    try:
        text = path.read_text(errors="replace").strip()
    except OSError:
        return ""
    return "" if vendor and (text.startswith("0x") or text == "ATA") else text


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _model(whole: Path) -> str:
    """The model; a memory card has only a name."""
    return _text(whole / "device/model") or _text(whole / "device/name")


def _bus(whole: Path) -> str:
    names = whole.parts[whole.parts.index("sys") :] if "sys" in whole.parts else whole.parts
    for bus in BUSES:
        if any(name.startswith(bus) for name in names):
            return bus.rstrip("-")
    return ""


def _order(name: str) -> tuple[str, int, int, str]:
    """sda2 before sda10, sda before sdaa."""
    digits = name[len(name.rstrip("0123456789")) :]
    stem = name[: len(name) - len(digits)]
    return stem.rstrip("p"), len(stem), int(digits or 0), name
