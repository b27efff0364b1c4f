"""A hub between cards of several machines: UDP on this host's loopback. What one machine sends, all others receive.

Like on the cable of two machines (`cable.py`), the card's link is always up, also while the others are off.
"""

import json
import selectors
import socket
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType

from osbuild.qemu.config import MachineNetwork
from support.cable import CARD, TOKEN

LONGEST_FRAME = 64 * 1024  # bytes
PAUSE = 0.2  # seconds until the end of the hub is noticed


def card_address(address: str) -> str:
    """Return the MAC address of the card that has the IPv4 address `address`."""
    return f"52:54:00:ed:9f:{int(address.rpartition('.')[2]):02x}"


class Hub:
    """Connects the machines that will have `addresses`, until the end of a `with` block."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    def __enter__(self) -> "Hub":
        self._stopped = threading.Event()
        with ExitStack() as stack:
            self._sockets = {address: stack.enter_context(open_socket()) for address in self._addresses}
            with ExitStack() as unused:  # ports that are free, for the machines
                sockets = {address: unused.enter_context(open_socket()) for address in self._addresses}
                self._ports: Mapping[str, int] = {name: each.getsockname()[1] for name, each in sockets.items()}
            self._thread = threading.Thread(target=self._forward, name="hub", daemon=True)
            self._thread.start()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._stack.close()

    def arguments(self, address: str) -> tuple[str, ...]:
        """Return QEMU's arguments for the card of the machine that will have `address`."""
        ends = (("local", self._ports[address]), ("remote", self._sockets[address].getsockname()[1]))
        text = ",".join(f"{end}.type=inet,{end}.host=127.0.0.1,{end}.port={port}" for end, port in ends)
        card = f"virtio-net-pci,netdev={CARD},mac={card_address(address)},romfile="
        return ("-netdev", f"dgram,id={CARD},{text}", "-device", card)

    def _forward(self) -> None:
        with selectors.DefaultSelector() as selector:
            for address, each in self._sockets.items():
                selector.register(each, selectors.EVENT_READ, address)
            while not self._stopped.is_set():
                for key, _ in selector.select(PAUSE):
                    frame = self._sockets[key.data].recv(LONGEST_FRAME)
                    for address, port in self._ports.items():
                        if address != key.data:
                            self._sockets[address].sendto(frame, ("127.0.0.1", port))


def open_socket() -> socket.socket:
    """Return a UDP socket with a port of its own."""
    each = socket.socket(type=socket.SOCK_DGRAM)
    each.bind(("127.0.0.1", 0))
    return each


def hub_settings(address: str, **kubernetes: object) -> list[str]:
    """Return what the seeds of all machines have; `kubernetes` are further keys."""
    interfaces = [
        {"name": CARD, "mac": card_address(address), "dhcp": False, "addresses": [f"{address}/24"]},
        {"name": "admin", "mac": MachineNetwork().mac},
    ]
    keys = {"node_ip": address, "token": f"env:{TOKEN}", **kubernetes}
    return [
        f"network.interfaces={json.dumps(interfaces)}",
        *(f"kubernetes.{key}={value}" for key, value in keys.items()),
    ]
