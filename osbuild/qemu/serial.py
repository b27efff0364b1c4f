"""The serial console: reads its log, waits for patterns, and sends input."""

import codecs
import contextlib
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.shared.errors import Error

# Carriage returns, and ECMA-48 control sequences and strings (colours, cursor movements, titles) of firmware, systemd
# and shells.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)|[@-OQ-WYZ\\=>78c])|\r|\x07")
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?)?$")

# Messages of the kernel and of our initrd after which a boot can't succeed.
PANIC = re.compile(r"Kernel panic - not syncing[^\n]*|edge-init: FAILED[^\n]*")

# Linux writes this if a sleeping kernel thread is not woken, each time after 21 to 84 s. An overloaded host causes it
# now and then. If it is repeated, a processor of the guest gets no timer interrupts any more, and the boot never ends:
# seen once in many hundreds of boots with emulated processors (QEMU 10.0, x86_64).
STALL = "Possible timer handling issue on cpu="
STALLS = 3

# Explanations for patterns at the end of a console log. The first match is used.
GUESSES = (
    (re.compile("Kernel panic - not syncing"), "the guest's kernel panicked; the lines before say why"),
    (re.compile("edge-init: FAILED"), "the initrd failed, and the slot has lost a try; the lines before say why"),
    (re.compile(r"verity[^\n]*corrupted"), "dm-verity found a damaged block on the root partition"),
    (re.compile(r"Out of memory: Killed|oom-kill:"), "the guest ran out of memory: give it more with --memory"),
    (
        re.compile(r"mounting \S+ on /sysroot failed|Cannot open root device"),
        "the initrd could not find its root partition",
    ),
    (
        re.compile(r"(?:reboot: Restarting system[\s\S]*){3}"),
        "the guest reboots repeatedly: find out why its boots fail",
    ),
    (re.compile(r"emergency mode|emergency shell"), "systemd started its emergency shell"),
    (re.compile(r"Dependency failed for"), "a systemd unit that others need failed"),
    (re.compile(r"No bootable (option|device)|EFI Internal Shell"), "the firmware found nothing to boot on the disk"),
    (
        re.compile(rf"(?:{STALL}[\s\S]*){{{STALLS}}}"),
        "this happens rarely to emulated processors: start the machine again",
    ),
    (
        re.compile(r"rcu: INFO: .* stall|soft lockup"),
        "the guest got too little processor time: the host may be overloaded",
    ),
)


def strip_controls(text: str) -> str:
    """Remove terminal control sequences and carriage returns from `text`."""
    return _CONTROL.sub("", text)


def guess_reason(text: str) -> str | None:
    """Return an explanation for the end of a console log; None if there is none."""
    for pattern, meaning in GUESSES:
        if pattern.search(text):
            return meaning
    return None


def last_lines(text: str, lines: int = 40) -> str:
    """Return the last `lines` lines, indented for a message."""
    return "\n".join("  | " + line for line in text.rstrip().splitlines()[-lines:])


class GuestStalled(Error):
    """A processor of the guest gets no timer interrupts any more."""


class Console:
    """Reads the growing log file of a serial console.

    `alive` is called before each read, and raises `Error` if no further output is possible.
    """

    def __init__(self, path: Path, alive: Callable[[], None] = lambda: None) -> None:
        self.path = path
        self._alive = alive
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._unfinished = ""
        self._text = ""
        self._position = 0

    @property
    def text(self) -> str:
        """The whole output of the console, without control sequences."""
        self._read()
        return self._text

    def skip(self) -> None:
        """Let the next `wait_for` ignore all output so far."""
        self._position = len(self.text)

    def wait_for(self, pattern: str, timeout: float, *, through_panic: bool = False) -> re.Match[str]:
        """Wait until `pattern` (re, multi-line) appears after the previous match.

        Raises `TimedOut` after `timeout` seconds, `GuestStalled` if the guest's timer has failed, and `Error` if QEMU
        ends or, unless `through_panic`, the guest's kernel panics. The message includes the last 40 lines, and the hint
        an explanation if there is one.
        """
        deadline = Deadline(timeout)
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            dead: Error | None = None
            try:
                self._alive()
            except Error as error:  # the last output may match
                dead = error
            self._read()
            if match := expression.search(self._text, self._position):
                self._position = match.end()
                return match
            if dead:
                raise self._failure(type(dead), f"{dead.message}, while waiting for {pattern!r}", dead.hint) from dead
            if not through_panic and (panic := PANIC.search(self._text, self._position)):
                raise self._failure(Error, f"{panic[0]}, while waiting for {pattern!r}")
            if self._text.count(STALL, self._position) >= STALLS:
                stalled = f"a processor of the guest gets no timer interrupts any more, while waiting for {pattern!r}"
                raise self._failure(GuestStalled, stalled)
            if deadline.passed:
                raise self._failure(TimedOut, f"{pattern!r} was not on the console within {timeout:g} s")
            deadline.pause()

    def _failure(self, kind: type[Error], message: str, hint: str | None = None) -> Error:
        recent = self._text[self._position :]
        end = last_lines(self._text) or "  | (the console has no output)"
        return kind(f"{message}\n{end}", hint=guess_reason(recent) or hint or f"the whole log is in {self.path}")

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        self._offset += len(data)
        text = self._unfinished + self._decoder.decode(data)
        cut = _UNFINISHED.search(text)
        self._unfinished = cut[0] if cut else ""
        self._text += strip_controls(text[: cut.start()] if cut else text)


class SerialLine:
    """The serial line: a connected socket that is always read, because a guest blocks if its output is not read."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._socket.settimeout(None)
        self._listener: Callable[[bytes], None] | None = None
        self._backlog = b""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drain, name="serial", daemon=True)
        self._thread.start()

    def send(self, text: str | bytes) -> None:
        """Send `text`. Raises `Error` if QEMU has ended."""
        try:
            self._socket.sendall(text.encode() if isinstance(text, str) else text)
        except OSError as error:
            raise Error(f"cannot send input, because the machine is off ({error.strerror})") from error

    def listen(self, listener: Callable[[bytes], None]) -> None:
        """Pass all output, from the first byte on, to `listener`, in the thread of this line."""
        with self._lock:
            listener(self._backlog)
            self._backlog = b""
            self._listener = listener

    def close(self) -> None:
        with contextlib.suppress(OSError):  # QEMU may have closed the connection
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _drain(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                return
            if not data:
                return
            with self._lock:
                if self._listener:
                    self._listener(data)
                elif len(self._backlog) < 2**20:
                    self._backlog += data
