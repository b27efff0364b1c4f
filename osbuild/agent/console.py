"""The console of the node: lines that people see without logging in."""

import threading
from collections.abc import Callable

from osbuild.agent.system import System

TIMEOUT = 10.0  # seconds for what nothing depends on


def print_on_console(system: System, line: str) -> None:
    """Print to the journal and the console; on the console a line of its own, whatever was being typed there."""
    print(line, flush=True)

    def write_there() -> None:
        try:
            with system.path("/dev/console").open("a") as console:
                console.write(f"\r{line}\r\n")
        except OSError as error:
            print(f"edge-agent: no console: {error.strerror}", flush=True)

    run_with_timeout(write_there)


def run_with_timeout(act: Callable[[], None]) -> None:
    """Do it, and go on without it after a while.

    A data partition that hangs, or a console whose output somebody has stopped, must not keep a node from its reboot.
    """
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
