"""A hub between cards of several machines: UDP between ports of this host's loopback, like `Cable`."""

import select
import socket
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from support.cable import datagram_card

LARGEST = 65536  # bytes of a frame, with segmentation offload
PAUSE = 0.2  # seconds until the end of the hub is noticed


class Hub:
    """Passes on what each machine sends to all others, until the block ends. The machines have `addresses`."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._stack = ExitStack()
        self._ports = {address: self._bind() for address in addresses}  # of the hub
        reserved = {address: self._bind() for address in addresses}
        self._machines = {address: reserved[address].getsockname() for address in addresses}
        for each in reserved.values():
            each.close()  # QEMU binds it
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hub")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._stack.close()

    def arguments(self, address: str) -> tuple[str, ...]:
        """Return QEMU's arguments for the card of the machine that will have `address`."""
        return datagram_card(address, self._machines[address][1], self._ports[address].getsockname()[1])

    def _bind(self) -> socket.socket:
        bound = self._stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        bound.bind(("127.0.0.1", 0))
        return bound

    def _run(self) -> None:
        owners = {each: address for address, each in self._ports.items()}
        while not self._end.is_set():
            for ready in select.select(list(owners), [], [], PAUSE)[0]:
                try:
                    frame = ready.recv(LARGEST)
                except ConnectionRefusedError:  # a machine to which something was sent from this port is off
                    continue
                for address, target in self._machines.items():
                    if address != owners[ready]:
                        self._send(self._ports[address], frame, target)

    def _send(self, port: socket.socket, frame: bytes, target: tuple[str, int]) -> None:
        try:
            port.sendto(frame, target)
        except ConnectionRefusedError:  # reported for an earlier frame: the machine is off
            return
