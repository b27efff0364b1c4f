"""Locks between processes, and links that are replaced as a whole."""

import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from osbuild.shared.files import create_file, file_system_space, replace_link
from osbuild.shared.locks import hold_file_lock, is_locked, lock_descriptor


def test_a_lock_waits_for_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = "import fcntl, sys, time; fcntl.flock(f := open(sys.argv[1], 'w'), 2); print(flush=True); time.sleep(1)"
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        assert is_locked(path)
        with path.open() as file:
            with pytest.raises(BlockingIOError):
                lock_descriptor(file.fileno(), patience=0.1)
            lock_descriptor(file.fileno(), patience=20)
    assert is_locked(path) is False


def test_a_folder_and_a_file_are_locked_and_only_a_lock_file_is_created(tmp_path: Path) -> None:
    with hold_file_lock(tmp_path):
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError), hold_file_lock(tmp_path / "absent"):
        pass
    with hold_file_lock(tmp_path / "lock", create=0o600):
        assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
        assert is_locked(tmp_path / "lock")
    with hold_file_lock(tmp_path / "lock", shared=True), (tmp_path / "lock").open() as file:
        lock_descriptor(file.fileno(), shared=True, patience=0)
        assert is_locked(tmp_path / "lock") is False


def test_waiting_ends_after_the_given_time(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as holder, (tmp_path / "lock").open() as file:
        fcntl.flock(holder, fcntl.LOCK_EX)
        begin = time.monotonic()
        with pytest.raises(BlockingIOError):
            lock_descriptor(file.fileno(), patience=0.2)
        assert 0.2 <= time.monotonic() - begin < 5


def test_a_link_is_replaced_but_an_existing_file_is_not(tmp_path: Path) -> None:
    for target in ("a", "b"):
        (tmp_path / ".link.new").write_text("what a power cut left")
        replace_link(tmp_path / "link", target)
        assert (tmp_path / "link").readlink() == Path(target)
    create_file(tmp_path / "a", b"1", 0o600)
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "a", b"2")
    assert (tmp_path / "link").with_name("a").read_bytes() == b"1"


def test_the_space_of_a_missing_path_is_unknown(tmp_path: Path) -> None:
    space = file_system_space(tmp_path)
    assert space is not None and 0 < space.free <= space.size
    assert file_system_space(tmp_path / "absent") is None


def test_a_lock_file_that_its_last_holder_removed_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    program = (
        "import fcntl, os, sys, time; fcntl.flock(f := open(sys.argv[1], 'w'), 2); print(flush=True); time.sleep(1); "
        "os.unlink(sys.argv[1])"
    )
    with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with hold_file_lock(path, create=0o600):
            assert is_locked(path), "it is the lock of whoever comes next, too"


def test_without_permission_to_open_a_lock_file_the_answer_is_still_right() -> None:
    path = Path(tempfile.mkdtemp(), "lock")
    program = (
        "import os, sys; from pathlib import Path; from osbuild.shared.locks import is_locked; "
        "os.setuid(65534); sys.exit(10 + is_locked(Path(sys.argv[1])))"
    )

    def locked_for_nobody() -> bool:
        result = subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60)
        assert result.returncode in (10, 11)
        return result.returncode == 11

    try:
        path.parent.chmod(0o755)
        assert not locked_for_nobody()
        with hold_file_lock(path, create=0o600):
            assert locked_for_nobody()
        with hold_file_lock(path, shared=True, create=0o600):
            assert not locked_for_nobody()
        assert not locked_for_nobody()
    finally:
        shutil.rmtree(path.parent)


def test_a_fifo_in_the_place_of_a_lock_file_does_not_hang(tmp_path: Path) -> None:
    """In child processes, because a call that hangs can't be interrupted otherwise."""
    os.mkfifo(tmp_path / "lock")
    program = (
        "import sys; from pathlib import Path; from osbuild.shared.locks import is_locked, hold_file_lock\n"
        "path = Path(sys.argv[1]); assert not is_locked(path)\n"
        "with hold_file_lock(path): assert is_locked(path)\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "lock"], check=True, timeout=20)
