"""A network cable between cards of two machines: UDP between two ports of this host's loopback.

The card's link is always up (qemu(1), `-netdev dgram`), so a machine keeps its address while the other one is off.
"""

import json
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from osbuild.qemu.config import MachineNetwork

SERVER, AGENT = "192.0.2.1", "192.0.2.2"
FAR_AGENT = "198.51.100.2"
"""an agent in another network"""
SERVERS = ("192.0.2.1", "192.0.2.2", "192.0.2.3")
"""the servers of a cluster of three"""
MACS = {
    **{address: f"52:54:00:ed:9e:1{number}" for number, address in enumerate(SERVERS, 1)},
    FAR_AGENT: "52:54:00:ed:9e:12",
}
CARD = "cable"
TOKEN = "EDGE_TEST_TOKEN"
"""the variable with the token of the cluster"""


@dataclass(frozen=True)
class Cable:
    """`ports` has the port of each end."""

    ports: Mapping[str, int]

    @classmethod
    def lay(cls) -> "Cable":
        """Choose two ports that are free."""
        with ExitStack() as stack:
            ends = {address: stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for address in (SERVER, AGENT)}
            for each in ends.values():
                each.bind(("127.0.0.1", 0))
            return cls({address: each.getsockname()[1] for address, each in ends.items()})

    def arguments(self, address: str) -> tuple[str, ...]:
        """Return QEMU's arguments for the card of the machine that will have `address`."""
        other = next(each for each in self.ports if each != address)
        return datagram_card(address, self.ports[address], self.ports[other])


def datagram_card(address: str, local: int, remote: int) -> tuple[str, ...]:
    """Return QEMU's arguments for the card of the machine that will have `address`, and the UDP ports of its cable."""
    ends = (("local", local), ("remote", remote))
    text = ",".join(f"{end}.type=inet,{end}.host=127.0.0.1,{end}.port={port}" for end, port in ends)
    return ("-netdev", f"dgram,id={CARD},{text}", *network_card(address))


def network_card(address: str) -> tuple[str, ...]:
    """Return QEMU's arguments for the card of the machine that will have `address`, without those for its network."""
    return ("-device", f"virtio-net-pci,netdev={CARD},mac={MACS[address]},romfile=")


def seed_settings(address: str, **kubernetes: object) -> list[str]:
    """Return what the seeds of both machines have; `kubernetes` are further keys."""
    interfaces = [
        {"name": CARD, "mac": MACS[address], "dhcp": False, "addresses": [f"{address}/24"]},
        {"name": "admin", "mac": MachineNetwork().mac},
    ]
    keys = {"node_ip": address, "token": f"env:{TOKEN}", **kubernetes}
    return [
        f"network.interfaces={json.dumps(interfaces)}",
        *(f"kubernetes.{key}={value}" for key, value in keys.items()),
    ]
