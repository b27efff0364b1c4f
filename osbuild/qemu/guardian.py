"""Runs QEMU for a parent process, and cleans up after the parent has ended.

A separate program with the standard library only, which `osbuild.qemu.process` starts as `guardian.py FOLDER`. It
creates a private folder below FOLDER. It reads JSON objects, one per line, from standard input: `{"start": [argv]}` or
`{"kill": true}`. It writes `{"folder": path}`, `{"started": pid}`, `{"failed": reason}` and `{"ended": status}` to
standard output; a negative status is a signal, as in subprocess.

The end of standard input means that the parent has ended, even by SIGKILL: then QEMU with its wrappers is killed, and
the folder is removed. If the guardian itself is killed, the kernel kills its child (PR_SET_PDEATHSIG, prctl(2)). That
signal depends on the thread that forked, so it is set in this process, which has only one thread.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def children() -> list[int]:
    """Return the children of this process. As a subreaper, it is also the parent of their orphans."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # proc(5): the name in parentheses may contain parentheses; state and parent follow the last one
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == os.getpid():
                pids.append(int(entry.name))
    return pids


class Guardian:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.child: subprocess.Popen[bytes] | None = None

    def say(self, **message: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the parent has ended; standard input reports this too
            os.write(1, (json.dumps(message) + "\n").encode())

    def start(self, argv: list[str]) -> None:
        guardian_pid = os.getpid()

        def die_with_guardian() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != guardian_pid:
                os._exit(1)

        try:
            with (self.folder / "qemu.log").open("ab") as log:
                self.child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    preexec_fn=die_with_guardian,
                )
        except OSError as error:
            self.say(failed=f"{argv[0]}: {error.strerror}")
        else:
            self.say(started=self.child.pid)

    def kill(self) -> None:
        """Kill all children, including those of wrappers, and wait for their end."""
        while pids := children():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                if self.child is None or pid != self.child.pid:
                    os.waitpid(pid, 0)
            if self.child is not None:
                self.child.wait()
        self.reap()

    def reap(self) -> None:
        """If the child has ended, report it to the parent and kill processes that it has left."""
        if self.child is not None and (status := self.child.poll()) is not None:
            self.child = None
            self.kill()
            self.say(ended=status)

    def serve(self) -> None:
        self.say(folder=str(self.folder))
        pending = b""
        while True:
            poll = select.poll()
            poll.register(0, select.POLLIN)
            pidfd = -1
            if self.child is not None:
                pidfd = os.pidfd_open(self.child.pid)
                poll.register(pidfd, select.POLLIN)
            try:
                ready = {fd for fd, _ in poll.poll()}
            finally:
                if pidfd >= 0:
                    os.close(pidfd)
            self.reap()
            if 0 not in ready:
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "start" in message:
                    self.start(message["start"])
                else:
                    self.kill()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(1))
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    guardian = Guardian(Path(tempfile.mkdtemp(prefix="edge-vm-", dir=sys.argv[1])))
    try:
        guardian.serve()
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        guardian.kill()
        shutil.rmtree(guardian.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
