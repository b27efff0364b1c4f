"""Signals that end a command."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import signal, sys, time
from osbuild.host.signals import end_on_signals
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
end_on_signals()
try:
    print("ready", flush=True)
    time.sleep(1 if "nohup" in sys.argv else 60)
finally:
    print("releasing", flush=True)
    time.sleep(1)
    print("released", flush=True)
"""


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_interrupt_what_the_first_one_began(
    first: signal.Signals, second: signal.Signals
) -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        command.send_signal(first)
        assert command.stdout.readline() == "releasing\n"
        command.send_signal(second)
        assert command.stdout.read() == "released\n"
    assert command.returncode == 128 + first


def test_a_closed_terminal_does_not_end_what_nohup_runs() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM, "nohup"], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "ready\n"
        command.send_signal(signal.SIGHUP)
        assert command.stdout.read() == "releasing\nreleased\n"
    assert command.returncode == 0
