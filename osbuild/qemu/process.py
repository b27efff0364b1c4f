"""A QEMU process that can't outlive whoever started it."""

import json
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from osbuild.host import log
from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.shared.errors import Error

GUARDIAN = Path(__file__).with_name("guardian.py")
ANSWER_SECONDS = 30.0


class Guarded:
    """Starts one program at a time and kills it, through a guardian process (see `guardian`).

    `folder` is private and gone after `close()`, or when this Python process dies in whatever way. The program's
    standard output and error are in `folder/qemu.log`.
    """

    def __init__(self, parent: Path) -> None:
        """`parent` is the folder in which the private one is made."""
        self._lock = threading.Lock()
        self._pending = b""
        self._answers: list[dict[str, Any]] = []
        self.pid: int | None = None
        self._status: int | None = None
        # A session of its own: Ctrl-C at the terminal is for this process, which then closes the guardian in order.
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARDIAN), str(parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        try:
            self.folder = Path(self._answer("folder"))
        except BaseException:
            self.close()
            raise

    @property
    def logfile(self) -> Path:
        return self.folder / "qemu.log"

    def start(self, command: Sequence[str]) -> None:
        """Start `command`. Raises `Error` where the program is missing."""
        self._status = None
        self._tell(start=list(command))
        self.pid = self._answer("started")

    def kill(self) -> None:
        """SIGKILL, and wait until the program is gone. Nothing happens where none runs."""
        if self.status() is None and self.pid is not None:
            self._tell(kill=True)
            self.wait(ANSWER_SECONDS)

    def status(self) -> int | None:
        """None while the program runs (or never did); then its exit status, negative for a signal. Does not wait."""
        with self._lock:
            if self._status is not None:
                return self._status
            self._read(0)
            for answer in self._answers:
                if "ended" in answer:
                    self._answers.remove(answer)
                    self._status = int(answer["ended"])
                    self.pid = None
                    break
            return self._status

    def wait(self, timeout: float) -> int:
        """Wait until the program has ended; its exit status. Raises `TimedOut` after `timeout` seconds."""
        deadline = Deadline(timeout)
        while (status := self.status()) is None:
            if deadline.passed:
                raise TimedOut(f"QEMU still runs after {timeout:g} s")
            deadline.pause()
        return status

    def close(self) -> None:
        """Kill the program, remove the folder."""
        if self._guardian.stdin and not self._guardian.stdin.closed:
            self._guardian.stdin.close()
        self._guardian.wait()
        if self._guardian.stdout:
            self._guardian.stdout.close()
        if self._guardian.returncode < 0 and hasattr(self, "folder"):  # somebody killed it before it could clean up
            shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, **message: object) -> None:
        assert self._guardian.stdin is not None
        try:
            self._guardian.stdin.write((json.dumps(message) + "\n").encode())
        except (BrokenPipeError, ValueError) as error:
            raise Error("the process that guards QEMU is gone", hint="start the machine again") from error

    def _answer(self, key: str) -> Any:
        deadline = Deadline(ANSWER_SECONDS)
        while not deadline.passed:
            with self._lock:
                self._read(min(0.1, deadline.remaining))
                for answer in self._answers:
                    if "failed" in answer:
                        self._answers.remove(answer)
                        raise Error(
                            f"cannot start {answer['failed']}",
                            hint="run `edge-osbuild doctor` to see what this host lacks",
                        )
                    if key in answer:
                        self._answers.remove(answer)
                        return answer[key]
        raise TimedOut(f"the process that guards QEMU did not answer within {ANSWER_SECONDS:g} s")

    def _read(self, timeout: float) -> None:
        """Take in what the guardian has said, waiting at most `timeout` seconds for the first word."""
        assert self._guardian.stdout is not None
        fd = self._guardian.stdout.fileno()
        while select.select([fd], [], [], timeout)[0]:
            data = os.read(fd, 65536)
            if not data:
                if self.pid is not None and self._status is None:
                    self._answers.append({"ended": -9})
                    log.debug("the process that guards QEMU was killed, and QEMU with it")
                    return
                if self.pid is None and self._guardian.poll() is not None:
                    raise Error("the process that guards QEMU is gone", hint="start the machine again")
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            self._answers.extend(json.loads(line) for line in lines)
            timeout = 0
