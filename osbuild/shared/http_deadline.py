"""A deadline for whole HTTP requests: timeouts of sockets are only for one read, so a slow server can exceed them."""

import http.client
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

# The exceptions of urllib and http.client for an invalid answer: a bad status line, header, length or redirect.
INVALID_ANSWERS = (http.client.HTTPException, ValueError, OverflowError, LookupError, AttributeError)


class ConnectionDeadline:
    """Shuts down its connections at a time of time.monotonic(), even in the middle of a read."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._changed = threading.Condition()
        self._end: float | None = None
        self.over = False
        threading.Thread(target=self._run, daemon=True, name="deadline").start()

    def until(self, end: float) -> None:
        """Set the time for open and future connections."""
        with self._changed:
            self._end = end
            self._changed.notify()

    def connect(self, *arguments: Any, **options: Any) -> socket.socket:
        """Like socket.create_connection. The connection is shut down at the deadline."""
        connection = socket.create_connection(*arguments, **options)
        with self._changed:  # duplicated, because TLS takes over the original descriptor
            self._sockets.append(socket.socket(fileno=os.dup(connection.fileno())))
            if self.over:
                self._shut()
        return connection

    def close(self) -> None:
        """Stop the thread, and forget all connections without shutting them down."""
        with self._changed:
            self._end = None
            self.over = True
            for connection in self._sockets:
                connection.close()
            self._sockets.clear()
            self._changed.notify()

    def _run(self) -> None:
        with self._changed:
            while not self.over:
                left = None if self._end is None else self._end - time.monotonic()
                if left is not None and left <= 0:
                    self.over = True
                    self._shut()
                else:
                    self._changed.wait(left)

    def _shut(self) -> None:
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
