"""The console of the node: people read it without logging in."""

import threading
from collections.abc import Callable

from osbuild.agent.system import System

TIMEOUT = 10.0  # seconds for output that nothing depends on


def print_on_console(system: System, line: str) -> None:
    """Print a line to the journal and to the console, where it starts a new line even in the middle of a prompt."""
    print(line, flush=True)

    def write_to_console() -> None:
        try:
            with system.path("/dev/console").open("a") as console:
                console.write(f"\r{line}\r\n")
        except OSError as error:
            print(f"edge-agent: the console cannot be written: {error.strerror}", flush=True)

    run_with_timeout(write_to_console)


def run_with_timeout(action: Callable[[], None]) -> None:
    """Call `action` in a thread, and return after `TIMEOUT` seconds even if it is still running."""
    # A data partition that hangs, or a console whose output somebody has stopped, must not prevent a reboot.
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
