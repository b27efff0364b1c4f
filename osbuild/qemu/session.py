"""One QEMU process and its two sockets, for QMP and the serial console."""

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

# QEMU's messages when it can't start, with a hint for each.
ADVICE = (
    (r"Could not set up host forwarding rule|Address already in use", "the port is in use: choose another one"),
    (r'Failed to get "?\w+"? lock', "another machine is using this disk: end it, or persist to another file"),
    (
        r"cannot set up guest memory|Cannot allocate memory",
        "the host has too little free memory: use less memory for the machine",
    ),
    (r"Invalid SD card size", "an SD card's size is a power of two: grow the file with truncate(1)"),
    (r"KVM|kvm_", "run with --accel tcg"),
    (r"No space left on device", "the folder for temporary files is full: set TMPDIR to another one"),
    (r"Property .* not found|not a valid device|invalid option", "this QEMU does not know one of its arguments"),
)


class Session:
    """Starts QEMU, repeatedly if necessary, with the same two sockets. `folder` is private; `close()` removes it."""

    def __init__(self, workdir: Path) -> None:
        """`workdir` is the parent of the private folder. Raises `Error`."""
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
        """Kill QEMU and remove the folder."""
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
        """Start QEMU paused, call `prepare`, and let the guest run. Raises `Error` with QEMU's output."""
        self._ended = None
        self._guarded.start(command)
        try:
            qmp, console = self._listeners
            self._monitor = Monitor(self._accept(qmp))
            self._line = SerialLine(self._accept(console))
            prepare()
            self.qmp("cont")
        except Error:
            # QEMU may connect before it exits because of its arguments: report its output, not the broken connection
            with contextlib.suppress(TimedOut):
                self._guarded.wait(2)
            self.check_alive()
            raise

    @property
    def running(self) -> bool:
        """Whether QEMU runs (the guest may hang)."""
        return self._ended is None and self._guarded.status() is None

    def check_alive(self) -> None:
        """Raise `Error` with QEMU's last output if it has ended."""
        if not self.running:
            raise Error(self._describe_end(), hint=self.advice())

    def kill(self) -> None:
        """Kill QEMU (SIGKILL)."""
        self._guarded.kill()
        self._ended = "the machine is off: its power was cut"
        self.disconnect()

    def wait_off(self, timeout: float) -> None:
        """Wait until the guest has shut down. Raises `TimedOut`, or `Error` if QEMU ended in another way."""
        if self._guarded.wait(timeout):
            raise Error(self._describe_end(), hint=self.advice())
        self._ended = "the machine is off: the guest has shut down"
        self.disconnect()

    def disconnect(self) -> None:
        """Close both connections. Received events stay readable."""
        if self._monitor:
            self._monitor.close()
        if self._line:
            self._line.close()
            self._line = None

    # --- the sockets

    def qmp(self, command: str, /, **arguments: Any) -> Any:
        """Run a QMP command and return its result. Underscores in argument names become hyphens."""
        self.check_alive()
        assert self._monitor is not None
        return self._monitor.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})

    def wait_for_event(self, name: str, timeout: float, *, matching: Mapping[str, Any] | None = None) -> Event:
        """Return the oldest event `name` since the start that was not returned before; see `Monitor.wait_for_event`."""
        assert self._monitor is not None
        return self._monitor.wait_for_event(name, timeout, matching=matching, alive=self.check_alive)

    @property
    def events(self) -> list[Event]:
        """All QMP events since QEMU was last started."""
        assert self._monitor is not None
        return self._monitor.events

    @property
    def line(self) -> SerialLine:
        """The serial line of the console."""
        self.check_alive()
        assert self._line is not None
        return self._line

    def advice(self, output: str | None = None) -> str | None:
        """Return a hint for QEMU's `output`, by default its whole output so far; None if there is none."""
        output = self._output() if output is None else output
        return next((advice for pattern, advice in ADVICE if re.search(pattern, output)), None)

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = Deadline(START_SECONDS)
        listener.settimeout(TICK)
        while not deadline.passed:
            try:
                return listener.accept()[0]
            except TimeoutError:
                self.check_alive()
        raise TimedOut(f"QEMU did not start within {START_SECONDS:g} s", hint="the host may be overloaded")

    def _output(self) -> str:
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
        return f"QEMU {how}\n{last_lines(self._output(), 15)}".rstrip()


def _listen(path: Path) -> socket.socket:
    if len(str(path)) > SOCKET_PATH_LIMIT:
        raise Error(f"the path is too long for a socket: {path}", hint="set TMPDIR to a folder with a shorter path")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    return listener
