"""What a captured cable says about the traffic of nodes."""

import struct
from pathlib import Path

from support.capture import Capture, parse_datagram

ADDRESSES = bytes([192, 0, 2, 1, 192, 0, 2, 2])


def udp_frame(payload: bytes, *, target_port: int = 51820, protocol: int = 17) -> bytes:
    """An Ethernet frame with a UDP datagram over IPv4, and its padding to 60 bytes."""
    udp = struct.pack(">HHHH", 40000, target_port, 8 + len(payload), 0) + payload
    header = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, protocol, 0) + ADDRESSES
    return (bytes(12) + b"\x08\x00" + header + udp).ljust(60, b"\0")


def test_addresses_ports_and_payload_of_a_datagram_are_read() -> None:
    datagram = parse_datagram(udp_frame(b"\x04\0\0\0data"))
    assert datagram is not None
    assert (datagram.source, datagram.source_port) == ("192.0.2.1", 40000)
    assert (datagram.target, datagram.target_port) == ("192.0.2.2", 51820)
    assert datagram.payload == b"\x04\0\0\0data" and datagram.carries_data


def test_a_handshake_or_another_protocol_carries_no_data() -> None:
    handshake, other_port = (
        parse_datagram(udp_frame(b"\x01\0\0\0")),
        parse_datagram(udp_frame(b"\x04\0\0\0", target_port=53)),
    )
    assert handshake and not handshake.carries_data
    assert other_port and not other_port.carries_data
    assert parse_datagram(udp_frame(b"\x04\0\0\0", protocol=6)) is None
    assert parse_datagram(bytes(12) + b"\x08\x06" + bytes(46)) is None


def test_the_packets_of_a_file_are_separated(tmp_path: Path) -> None:
    frames = [udp_frame(b"one"), udp_frame(b"two")]
    records = [struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    path = tmp_path / "cable.pcap"
    path.write_bytes(bytes(24) + b"".join(records))
    capture = Capture(path)
    assert capture.packets == frames
    assert [datagram.payload for datagram in capture.datagrams] == [b"one", b"two"]
    assert capture.contains("two") and not capture.contains("three")
