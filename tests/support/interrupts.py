"""Ctrl-C at a chosen moment of a program's start."""

import signal
import subprocess
from collections.abc import Sequence


def interrupt_at_import(command: Sequence[str], module: str) -> tuple[int, list[str]]:
    """Send SIGINT to a Python program once it has imported `module`. Returns its status and the lines of its stderr.

    `command` has the options `-X importtime`, with which the interpreter names each imported module (python(1)).
    """
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == module:
                process.send_signal(signal.SIGINT)
                break
        lines = [line for line in process.stderr.read().splitlines() if not line.startswith("import time:")]
    return process.returncode, lines
