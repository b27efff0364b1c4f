"""How much of a bundle comes over the network: RAUC reads a streamed one through a network block device (nbd)."""

from dataclasses import dataclass, field

from osbuild.agent.system import System

BLOCKS = "/sys/block"


@dataclass
class NbdCounters:
    """Counts what is read through devices that were not connected before; `fetched` is in bytes, over all of them."""

    system: System
    before: frozenset[str] = frozenset()
    counts: dict[str, int] = field(default_factory=dict)
    waiting: bool = False  # for an answer to a request, at the last look

    def start(self) -> None:
        """Devices that are connected now are somebody else's."""
        self.before = frozenset(self.connected_devices())
        self.counts = {}
        self.waiting = False

    def connected_devices(self) -> list[str]:
        """A device has this file as long as it is connected (Linux, drivers/block/nbd.c)."""
        return sorted(path.parent.name for path in self.system.path(BLOCKS).glob("nbd*/pid"))

    @property
    def fetched(self) -> int:
        return sum(self.counts.values())

    def poll(self) -> None:
        """Read the counters again (kernel documentation, block/stat)."""
        self.waiting = False
        for name in self.connected_devices():
            values = self.system.text(f"{BLOCKS}/{name}/stat").split()
            if name not in self.before and len(values) > 8:
                # Sectors are 512 bytes here whatever the device has. A device that is used again counts on.
                self.counts[name] = max(self.counts.get(name, 0), int(values[2]) * 512)
                self.waiting |= int(values[8]) > 0
