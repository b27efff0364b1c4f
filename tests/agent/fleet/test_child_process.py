"""Work in a child process: its answer, its failures, and its memory."""

import re
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.fleet.child_process import run_in_child

LARGE = 64 * 2**20  # bytes


def resident() -> int:
    """Return the resident memory of this process in bytes (proc(5))."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return int(match[1]) * 1024


def test_the_answer_comes_back_and_the_memory_does_not_stay() -> None:
    before = resident()

    def work() -> dict[str, Any]:
        block = bytearray(b"x" * LARGE)
        return {"text": "y" * 200_000, "length": len(block)}  # more than a pipe holds

    assert run_in_child(work) == {"text": "y" * 200_000, "length": LARGE}
    assert resident() < before + LARGE // 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Problem("no server", where="agent.json", hint="make a seed"), "make a seed"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ZeroDivisionError("a defect"), "ZeroDivisionError: a defect"),
    ],
)
def test_a_failure_is_printed(error: Exception, text: str, capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> dict[str, Any]:
        raise error

    assert run_in_child(work) is None
    assert text in capfd.readouterr().err


def test_a_child_that_is_killed_has_failed() -> None:
    def work() -> dict[str, Any]:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    assert run_in_child(work) is None
