"""A synchronous client of QEMU's machine protocol (QMP). A thread runs the event loop that `qemu.qmp` needs."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from qemu.qmp import ExecuteError, QMPClient, QMPError

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.shared.errors import Error

T = TypeVar("T")
Event = Mapping[str, Any]

COMMAND_SECONDS = 60.0

# The end of QEMU is expected, and the waiting code reports it.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class CommandRefused(Error):
    """QEMU answered a command with an error; `reason` is its class (QAPI `QapiErrorClass`)."""

    def __init__(self, command: str, error: ExecuteError) -> None:
        super().__init__(f"QEMU refused {command}: {error}")
        self.reason = error.error_class


class Monitor:
    """A QMP session over a connected socket (QEMU's "QMP reference manual")."""

    def __init__(self, connection: socket.socket) -> None:
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._returned: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._thread.start()
        self._client = QMPClient("machine")
        self._listening: asyncio.Task[None] | None = None
        try:
            self._call(self._begin(connection), COMMAND_SECONDS)
        except BaseException as error:
            self.close()
            if isinstance(error, QMPError):
                raise Error(f"QEMU has ended the session ({error})") from error
            raise

    @property
    def events(self) -> list[Event]:
        """All events so far, oldest first, each with `event`, `data` and `timestamp`."""
        with self._changed:
            return list(self._events)

    def execute(self, command: str, arguments: Mapping[str, Any], *, timeout: float = COMMAND_SECONDS) -> Any:
        """Run one command and return its result. Raises `CommandRefused`, `TimedOut`, or `Error` if QEMU has ended."""
        try:
            return self._call(self._client.execute(command, dict(arguments)), timeout)
        except ExecuteError as error:
            raise CommandRefused(command, error) from error
        except QMPError as error:
            raise Error(f"QEMU has ended before it answered {command} ({error})") from error

    def wait_for_event(
        self,
        name: str,
        timeout: float,
        *,
        matching: Mapping[str, Any] | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> Event:
        """Return the oldest event `name` that was not returned before. Raises `TimedOut` after `timeout` seconds.

        With `matching`, the event's data must have these values. `alive` is called repeatedly, and raises if no further
        event is possible.
        """
        deadline = Deadline(timeout)
        while True:
            dead: Error | None = None
            try:
                alive()
            except Error as error:  # the event may have arrived just before
                dead = error
            with self._changed:
                for number, event in enumerate(self._events):
                    data = event.get("data", {})
                    fits = all(data.get(key) == value for key, value in (matching or {}).items())
                    if event["event"] == name and fits and number not in self._returned:
                        self._returned.add(number)
                        return event
                if dead:
                    raise dead
                if deadline.passed:
                    recent = ", ".join(str(event["event"]) for event in self._events[-10:]) or "none"
                    raise TimedOut(f"no event {name} within {timeout:g} s; the last events were: {recent}")
                self._changed.wait(min(0.1, deadline.remaining))

    def close(self) -> None:
        """End the session and its thread. `events` stays readable."""
        if self._loop.is_closed():
            return
        try:
            self._call(self._end(), 10)
        except (QMPError, OSError, EOFError, TimedOut):
            pass  # the session ends anyway
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    async def _begin(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._listening = asyncio.ensure_future(self._listen())
        await self._client.connect(connection)

    async def _listen(self) -> None:
        async for event in self._client.events:
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()

    async def _end(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
        await self._client.disconnect()

    def _call(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except TimeoutError as error:
            future.cancel()
            raise TimedOut(f"QEMU did not answer within {timeout:g} s") from error
