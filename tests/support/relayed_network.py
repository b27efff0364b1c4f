"""A port of this host inside of the network namespace of another process."""

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CLONE_NEWNET = 0x40000000  # setns(2)
CHUNK = 64 * 1024
PATIENCE = 120.0  # seconds


@dataclass
class PortRelay:
    """Passes connections on to `port` of this host. Each chunk to the client waits for `pause` seconds."""

    listener: socket.socket
    port: int
    pause: float = 0.0

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client = self.listener.accept()[0]
                server = socket.create_connection(("127.0.0.1", self.port))
                for source, target, slow in ((client, server, False), (server, client, True)):
                    threading.Thread(target=self.pass_on, args=(source, target, slow), daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket, slow: bool) -> None:
        """Copy what one side sends to the other side until it ends."""
        with suppress(OSError):
            while data := source.recv(CHUNK):
                target.sendall(data)
                if slow and self.pause:
                    time.sleep(self.pause)
            target.shutdown(socket.SHUT_WR)


def listen_in(process: int, address: tuple[str, int]) -> socket.socket:
    """Return a socket that listens in the network namespace of a process. Raises `OSError`."""
    results: list[socket.socket | OSError] = []

    def listen() -> None:
        descriptor = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
        try:
            # Only this thread changes its namespace; sockets stay in that in which they were made.
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            results.append(socket.create_server(address))
        except OSError as error:
            results.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    (result,) = results
    if isinstance(result, OSError):
        raise result
    return result


@contextmanager
def relayed_port(process: int, host: str, port: int) -> Iterator[PortRelay]:
    """Make `port` of this host available as `port` of `host` in the network namespace of a process.

    Waits until the namespace has the address.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            listener = listen_in(process, (host, port))
            break
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL or time.monotonic() > end:
                raise
        time.sleep(0.1)
    with listener:
        relay = PortRelay(listener, port)
        threading.Thread(target=relay.serve, daemon=True).start()
        try:
            yield relay
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
