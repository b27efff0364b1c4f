"""Counts the bytes of a streamed bundle. RAUC reads such a bundle through a network block device (nbd)."""

from dataclasses import dataclass, field

from osbuild.agent.system import System

BLOCKS = "/sys/block"


@dataclass
class NbdCounters:
    """Counts bytes read from nbd devices that were connected after `start`."""

    system: System
    before: frozenset[str] = frozenset()
    counts: dict[str, int] = field(default_factory=dict)
    waiting: bool = False  # whether a request was open at the last poll

    def start(self) -> None:
        """Reset the counters. Devices that are connected now belong to other programs and are ignored."""
        self.before = frozenset(self.connected_devices())
        self.counts = {}
        self.waiting = False

    def connected_devices(self) -> list[str]:
        """The names of connected devices. The file `pid` exists while a device is connected (drivers/block/nbd.c)."""
        return sorted(path.parent.name for path in self.system.path(BLOCKS).glob("nbd*/pid"))

    @property
    def fetched(self) -> int:
        """Bytes read from all devices."""
        return sum(self.counts.values())

    def poll(self) -> None:
        """Read the counters again (kernel documentation, block/stat)."""
        self.waiting = False
        for name in self.connected_devices():
            values = self.system.text(f"{BLOCKS}/{name}/stat").split()
            if name not in self.before and len(values) > 8:
                # Sectors are 512 bytes here for every device. The counter continues if a device is used again.
                self.counts[name] = max(self.counts.get(name, 0), int(values[2]) * 512)
                self.waiting |= int(values[8]) > 0
