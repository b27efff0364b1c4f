"""One QEMU process and the two sockets that it connects to: its machine protocol and the serial console."""

import contextlib
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from osbuild.qemu.deadline import TICK, Deadline, TimedOut
from osbuild.qemu.process import Guarded
from osbuild.qemu.qmp import Event, Monitor
from osbuild.qemu.serial import SerialLine, last_lines
from osbuild.shared.errors import Error

START_SECONDS = 30.0
SOCKET_PATH_LIMIT = 107  # unix(7), without the final zero

# What QEMU says when it cannot start, and what to do about it.
ADVICE = (
    (r"Could not set up host forwarding rule|Address already in use", "the port is in use: choose another one"),
    (r'Failed to get "?\w+"? lock', "another machine is using this disk: end it, or persist in another file"),
    (r"cannot set up guest memory|Cannot allocate memory", "the host has too little memory free: ask for less"),
    (r"Invalid SD card size", "an SD card's size is a power of two: grow the file with truncate(1)"),
    (r"KVM|kvm_", "run with --accel tcg"),
    (r"No space left on device", "the folder for temporary files is full: point TMPDIR to another one"),
    (r"Property .* not found|not a valid device|invalid option", "this QEMU does not know one of its arguments"),
)


class Session:
    """Starts QEMU, again and again if need be, each time with the same two sockets.

    `folder` is private and gone after `close()`.
    """

    def __init__(self, workdir: Path) -> None:
        """`workdir` is where the private folder is made."""
        self._monitor: Monitor | None = None
        self._line: SerialLine | None = None
        self._ended: str | None = None
        with ExitStack() as stack:
            self._guarded = Guarded(workdir)
            stack.callback(self._guarded.close)
            stack.callback(self.disconnect)
            self._listeners = [stack.enter_context(_listen(path)) for path in (self.qmp_socket, self.console_socket)]
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Kill QEMU, remove the folder."""
        self._stack.close()

    @property
    def folder(self) -> Path:
        return self._guarded.folder

    @property
    def qmp_socket(self) -> Path:
        return self.folder / "qmp"

    @property
    def console_socket(self) -> Path:
        return self.folder / "console"

    # --- the process

    def start(self, command: Sequence[str], prepare: Callable[[], None] = lambda: None) -> None:
        """Start QEMU, which must begin paused, and let the guest run. Raises `Error` with what QEMU said.

        `prepare` is called while it still pauses.
        """
        self._ended = None
        self._guarded.start(command)
        try:
            qmp, console = self._listeners
            self._monitor = Monitor(self._accept(qmp))
            self._line = SerialLine(self._accept(console))
            prepare()
            self.qmp("cont")
        except Error:
            # a QEMU that does not like its arguments may first connect, then die: say what it said, not what broke
            with contextlib.suppress(TimedOut):
                self._guarded.wait(2)
            self.check_alive()
            raise

    @property
    def running(self) -> bool:
        """QEMU is there (the guest may still hang)."""
        return self._ended is None and self._guarded.status() is None

    def check_alive(self) -> None:
        """Raise `Error`, with what QEMU said last, if it is gone."""
        if not self.running:
            raise Error(self._describe_end(), hint=self.advice())

    def kill(self) -> None:
        """SIGKILL."""
        self._guarded.kill()
        self._ended = "the machine is off: its power was cut"
        self.disconnect()

    def wait_off(self, timeout: float) -> None:
        """Wait until the guest has switched itself off. Raises `TimedOut`, or `Error` if QEMU ended in another way."""
        if self._guarded.wait(timeout):
            raise Error(self._describe_end(), hint=self.advice())
        self._ended = "the machine is off: the guest has shut down"
        self.disconnect()

    def disconnect(self) -> None:
        """Let go of both sockets; the events that were received can still be read."""
        if self._monitor:
            self._monitor.close()
        if self._line:
            self._line.close()
            self._line = None

    # --- the sockets

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command; underscores in argument names stand for hyphens. Returns its `return` value."""
        self.check_alive()
        assert self._monitor is not None
        return self._monitor.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def wait_for_event(self, name: str, timeout: float, *, matching: Mapping[str, Any] | None = None) -> Event:
        """The oldest event `name` since the start that was not returned before; see `Monitor.wait_for_event`."""
        assert self._monitor is not None
        return self._monitor.wait_for_event(name, timeout, matching=matching, alive=self.check_alive)

    @property
    def events(self) -> list[Event]:
        """Every QMP event since QEMU was last started."""
        assert self._monitor is not None
        return self._monitor.events

    @property
    def line(self) -> SerialLine:
        """The serial console's wire."""
        self.check_alive()
        assert self._line is not None
        return self._line

    def advice(self, said: str | None = None) -> str | None:
        """What to do about what QEMU `said`, by default what it has written so far; None if nothing is known."""
        said = self._said() if said is None else said
        return next((advice for pattern, advice in ADVICE if re.search(pattern, said)), None)

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = Deadline(START_SECONDS)
        listener.settimeout(TICK)
        while not deadline.passed:
            try:
                return listener.accept()[0]
            except TimeoutError:
                self.check_alive()
        raise TimedOut(f"QEMU did not start within {START_SECONDS:g} s", hint="is the host overloaded?")

    def _said(self) -> str:
        try:
            return self._guarded.logfile.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _describe_end(self) -> str:
        if self._ended:
            return self._ended
        status = self._guarded.status()
        if status == 0:
            return "the machine is off: the guest has shut down"
        how = f"was killed by signal {-status}" if status and status < 0 else f"ended with status {status}"
        return f"QEMU {how}\n{last_lines(self._said(), 15)}".rstrip()


def _listen(path: Path) -> socket.socket:
    if len(str(path)) > SOCKET_PATH_LIMIT:
        raise Error(f"the path is too long for a socket: {path}", hint="point TMPDIR to a folder with a shorter name")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener
