"""The guardian: what it starts ends with whoever asked for it. Programs other than QEMU stand in for nothing here:
the guardian does not know what it runs, and the tests with QEMU itself are in qemu-tests/."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from osbuild.qemu.deadline import Deadline, TimedOut
from osbuild.qemu.process import Guarded
from osbuild.shared.errors import Error


def gone(pid: int) -> bool:
    """The process does not exist, or is dead and waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_until_gone(pid: int) -> None:
    deadline = Deadline(5)
    while not gone(pid):
        assert not deadline.passed, f"process {pid} still runs"
        deadline.pause(0.02)


def test_status_and_output_of_a_program_are_known(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    try:
        guarded.start(["sh", "-c", "echo said >&2; exit 7"])
        assert guarded.wait(5) == 7
        assert guarded.logfile.read_text() == "said\n"
        guarded.start(["sleep", "100"])
        assert guarded.status() is None
        with pytest.raises(TimedOut):
            guarded.wait(0.1)
        guarded.kill()
        assert guarded.status() == -signal.SIGKILL
    finally:
        guarded.close()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_is_one_clear_error(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    try:
        with pytest.raises(Error, match="cannot start no-such-program: No such file or directory"):
            guarded.start(["no-such-program"])
        guarded.start(["true"])
        assert guarded.wait(5) == 0
    finally:
        guarded.close()


def test_grandchildren_die_too_even_in_a_session_of_their_own(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    try:
        guarded.start(["sh", "-c", 'setsid sleep 100 & echo $! >"$0"; wait', str(tmp_path / "pid")])
        deadline = Deadline(5)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert not deadline.passed
            deadline.pause(0.02)
        grandchild = int((tmp_path / "pid").read_text())
        assert not gone(grandchild)
        guarded.kill()
        assert gone(grandchild)
    finally:
        guarded.close()


def test_a_killed_guardian_takes_its_program_along_and_is_noticed(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path)
    try:
        guarded.start(["sleep", "100"])
        pid = guarded.pid
        assert pid is not None
        os.kill(guarded._guardian.pid, signal.SIGKILL)
        wait_until_gone(pid)
        assert guarded.wait(5) == -signal.SIGKILL
        with pytest.raises(Error, match="guards QEMU has ended"):
            guarded.start(["true"])
    finally:
        guarded.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_the_parent_is_killed(tmp_path: Path, number: signal.Signals) -> None:
    script = (
        "import sys, time; from pathlib import Path; from osbuild.qemu.process import Guarded\n"
        "guarded = Guarded(Path(sys.argv[1])); guarded.start(['sleep', '100'])\n"
        "print(guarded.pid, guarded._guardian.pid, flush=True); time.sleep(100)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(list(tmp_path.iterdir())) == 1
        parent.send_signal(number)
        assert parent.wait() == -number
        for pid in pids:
            wait_until_gone(pid)
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_a_thread_that_started_a_program_is_not_the_end_of_the_program(tmp_path: Path) -> None:
    box: list[Guarded] = []

    def start() -> None:
        box.append(Guarded(tmp_path))
        box[0].start(["sleep", "100"])

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert box[0].status() is None
    finally:
        box[0].close()
