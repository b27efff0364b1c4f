"""Captures packets of a cable in the format of libpcap (pcap-savefile(5)): QEMU writes them, outside of the guest."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from osbuild.qemu.machine import Machine
from support.cable import CARD

HEADER, RECORD = 24, 16  # bytes: of the file, and of each packet
ETHERNET, UDP_HEADER = 14, 8
IPV4, UDP = 0x0800, 17
WIREGUARD = 51820
DATA = b"\x04\0\0\0"
"""the beginning of WireGuard's packets that carry data (wireguard.com/protocol, "Subsequent Messages")"""


@dataclass(frozen=True)
class Datagram:
    """A UDP datagram over IPv4; the addresses are texts."""

    source: str
    source_port: int
    target: str
    target_port: int
    payload: bytes

    @property
    def carries_data(self) -> bool:
        """Whether it is a packet of WireGuard with data, not one of a handshake."""
        return WIREGUARD in (self.source_port, self.target_port) and self.payload.startswith(DATA)


class Capture:
    """The packets of a cable since the beginning of `capture_cable`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def packets(self) -> list[bytes]:
        """The Ethernet frames, in their order."""
        data, frames, offset = self._path.read_bytes(), [], HEADER
        while offset + RECORD <= len(data):
            (length,) = struct.unpack_from("<8xI4x", data, offset)
            frames.append(data[offset + RECORD : offset + RECORD + length])
            offset += RECORD + length
        return frames

    @property
    def datagrams(self) -> list[Datagram]:
        """The UDP datagrams over IPv4."""
        return [datagram for frame in self.packets if (datagram := parse_datagram(frame))]

    def contains(self, text: str) -> bool:
        """Whether a packet contains a text that is not encrypted."""
        return any(text.encode() in frame for frame in self.packets)


def parse_datagram(frame: bytes) -> Datagram | None:
    """Parse an Ethernet frame with a UDP datagram over IPv4 (RFC 791, 3.1; RFC 768); None if it is something else."""
    packet = frame[ETHERNET:]
    if len(packet) < 20 or frame[12:14] != IPV4.to_bytes(2, "big") or packet[9] != UDP:
        return None
    header = (packet[0] & 15) * 4
    source, target = (".".join(map(str, packet[offset : offset + 4])) for offset in (12, 16))
    source_port, target_port, length = struct.unpack_from(">HHH", packet, header)
    return Datagram(source, source_port, target, target_port, packet[header + UDP_HEADER : header + length])


@contextmanager
def capture_cable(machine: Machine) -> Iterator[Capture]:
    """Capture what the machine's end of the cable sends and receives, until the block ends."""
    path = machine.folder / "cable.pcap"
    machine.qmp("object-add", qom_type="filter-dump", id="capture", netdev=CARD, file=str(path))
    try:
        yield Capture(path)
    finally:
        machine.qmp("object-del", id="capture")
