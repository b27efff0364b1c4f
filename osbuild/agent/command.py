"""Runs programs of the device."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class CommandNotFinished(Exception):
    """The program could not be started, or did not end in time. The message says which."""


def run_command(
    command: Sequence[str | Path], *, timeout: float, env: Mapping[str, str] | None = None, errors: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program without input, and return its status and output. `timeout` is in seconds.

    `errors` says how output that is not UTF-8 is decoded (`str.encode`). Raises `CommandNotFinished`.
    """
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=timeout, env=env,
            errors=errors,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CommandNotFinished(str(error)) from error
