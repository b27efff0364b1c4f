"""Runs QEMU for a parent process and outlives it just long enough to leave nothing behind.

A program of its own, standard library only, started as `guardian.py FOLDER` by `osbuild.qemu.process`. It makes a
private folder below FOLDER and tells its parent the name. Then it takes one JSON object a line on standard input:
`{"start": [argv]}` or `{"kill": true}`; and it answers on standard output with `{"folder": path}`,
`{"started": pid}`, `{"failed": reason}` and `{"ended": status}`, the status as subprocess gives it (negative: signal).

Standard input at its end means that the parent has finished or died, whatever the way, SIGKILL included: QEMU and
everything that it was wrapped in is killed and the folder removed. Should the guardian itself be killed, then the
kernel kills its child (PR_SET_PDEATHSIG, prctl(2)). That signal is bound to the thread that forked, so it is set
here, where there is just one thread, and not in a test runner that may have many.
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
    """Processes whose parent is this one: those that it started, and orphans of these, for it is a subreaper."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                # proc(5): the name, in parentheses, may hold anything; state and parent follow the last one
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
        with contextlib.suppress(BrokenPipeError):  # nobody listens any more: standard input says the same
            os.write(1, (json.dumps(message) + "\n").encode())

    def start(self, argv: list[str]) -> None:
        me = os.getpid()

        def die_with_me() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != me:
                os._exit(1)

        try:
            with (self.folder / "qemu.log").open("ab") as log:
                self.child = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    preexec_fn=die_with_me,
                )
        except OSError as error:
            self.say(failed=f"{argv[0]}: {error.strerror}")
        else:
            self.say(started=self.child.pid)

    def kill(self) -> None:
        """End everything that was started, wrappers' grandchildren included, and wait until it is gone."""
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
        """Tell the parent if the child has ended, and sweep up what it may have left running."""
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
