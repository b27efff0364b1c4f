"""Connects the user's terminal to a serial console."""

import contextlib
import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from enum import Enum

from osbuild.qemu.deadline import TICK
from osbuild.qemu.machine import Machine

ESCAPE = 0x01  # Ctrl-A, as in `qemu -nographic`
HELP = b"\r\nCtrl-A X  quit (power cut)\r\nCtrl-A P  press the power button\r\nCtrl-A R  press the reset button\r\n" + (
    b"Ctrl-A A  send Ctrl-A\r\nCtrl-A H  this help\r\n"
)


class Action(Enum):
    """The action of the key after Ctrl-A."""

    quit = "x"
    power = "p"
    reset = "r"
    help = "h"


class Keyboard:
    """Splits input into text for the guest and actions."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, typed: bytes) -> Iterator[bytes | Action]:
        """Yield text and actions in order. A Ctrl-A at the end applies to the next call."""
        text = bytearray()
        actions = {action.value: action for action in Action}
        for byte in typed:
            if not self._escaped:
                if byte == ESCAPE:
                    self._escaped = True
                else:
                    text.append(byte)
                continue
            self._escaped = False
            key = chr(byte).lower()
            if key in actions:
                if text:
                    yield bytes(text)
                    text.clear()
                yield actions[key]
            elif key == "a" or byte == ESCAPE:
                text.append(ESCAPE)
        if text:
            yield bytes(text)


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Let the terminal `fd` pass on every key, including Ctrl-C, until the block ends."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Screen:
    """Shows the console on standard output. `closed` is set when its reader has ended."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = fd
        self.closed = threading.Event()

    def show(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError:
            self.closed.set()


def stream_console(machine: Machine, screen: Screen) -> None:
    """Show the console until the guest is off or the screen is closed."""
    machine.line.listen(screen.show)
    while machine.running and not screen.closed.wait(TICK):
        pass


def run_terminal(machine: Machine, screen: Screen) -> None:
    """Connect the user to the console until the guest is off or Ctrl-A X is typed."""
    keyboard = Keyboard()
    with raw_terminal(sys.stdin.fileno()):
        machine.line.listen(screen.show)
        act: dict[Action, Callable[[], object]] = {
            Action.power: lambda: machine.qmp("system_powerdown"),
            Action.reset: machine.reset,
            Action.help: lambda: screen.show(HELP),
        }
        while machine.running and not screen.closed.is_set():
            if not select.select([sys.stdin], [], [], TICK)[0]:
                continue
            typed = os.read(sys.stdin.fileno(), 1024)
            if not typed:  # the terminal was closed
                return
            for item in keyboard.feed(typed):
                if item is Action.quit:
                    return
                if isinstance(item, Action):
                    act[item]()
                elif machine.running:
                    machine.line.send(item)
