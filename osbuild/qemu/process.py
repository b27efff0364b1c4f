"""A QEMU process that ends with the process that started it."""

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
    """Starts and kills one program at a time through a guardian process (see `guardian`).

    `folder` is private, and removed by `close()` or when this process ends in any way. Standard output and error of the
    program are written to `folder/qemu.log`.
    """

    def __init__(self, parent: Path) -> None:
        """`parent` is the parent of the private folder. Raises `Error`."""
        self._lock = threading.Lock()
        self._pending = b""
        self._answers: list[dict[str, Any]] = []
        self.pid: int | None = None
        self._status: int | None = None
        # In its own session, so that Ctrl-C is sent to this process only, which then closes the guardian.
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
        """Start `command`. Raises `Error` if the program is missing."""
        self._status = None
        self._send(start=list(command))
        self.pid = self._answer("started")

    def kill(self) -> None:
        """Kill the program (SIGKILL) and wait for its end. Does nothing if no program runs."""
        if self.status() is None and self.pid is not None:
            self._send(kill=True)
            self.wait(ANSWER_SECONDS)

    def status(self) -> int | None:
        """Return the exit status, negative for a signal; None while the program runs or was never started."""
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
        """Wait for the end of the program and return its exit status. Raises `TimedOut` after `timeout` seconds."""
        deadline = Deadline(timeout)
        while (status := self.status()) is None:
            if deadline.passed:
                raise TimedOut(f"QEMU still runs after {timeout:g} s")
            deadline.pause()
        return status

    def close(self) -> None:
        """Kill the program and remove the folder."""
        if self._guardian.stdin and not self._guardian.stdin.closed:
            self._guardian.stdin.close()
        self._guardian.wait()
        if self._guardian.stdout:
            self._guardian.stdout.close()
        if self._guardian.returncode < 0 and hasattr(
            self, "folder"
        ):  # the guardian was killed before it could clean up
            shutil.rmtree(self.folder, ignore_errors=True)

    def _send(self, **message: object) -> None:
        assert self._guardian.stdin is not None
        try:
            self._guardian.stdin.write((json.dumps(message) + "\n").encode())
        except (BrokenPipeError, ValueError) as error:
            raise Error("the process that guards QEMU has ended", hint="start the machine again") from error

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
                            hint="run `edge-osbuild doctor` to see which programs this host lacks",
                        )
                    if key in answer:
                        self._answers.remove(answer)
                        return answer[key]
        raise TimedOut(f"the process that guards QEMU did not answer within {ANSWER_SECONDS:g} s")

    def _read(self, timeout: float) -> None:
        """Read the guardian's messages, waiting at most `timeout` seconds for the first one. Raises `Error`."""
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
                    raise Error("the process that guards QEMU has ended", hint="start the machine again")
                return
            *lines, self._pending = (self._pending + data).split(b"\n")
            self._answers.extend(json.loads(line) for line in lines)
            timeout = 0
