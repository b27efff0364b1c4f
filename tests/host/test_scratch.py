"""Temporary folders: private, gone with their command, and with the next one if it was killed."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from osbuild.host.scratch import temporary_folder
from osbuild.shared.errors import Error
from tests.support.mounted import mount_tmpfs

HOLD = """
import sys, time
from osbuild.host.scratch import temporary_folder
from osbuild.host.signals import end_on_signals
end_on_signals()
with temporary_folder("test") as folder:
    (folder / "secret").write_text("token")
    print(folder, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def stopped_by(number: signal.Signals) -> tuple[int, Path]:
    """The exit status of a command that the signal ended, and the folder that it had."""
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        folder = Path(command.stdout.readline().strip())
        assert (folder / "secret").is_file()
        command.send_signal(number)
    return command.returncode, folder


def test_it_is_private_and_gone_at_the_end(place: Path) -> None:
    with temporary_folder("test") as folder:
        assert folder.parent == place and stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "inner").mkdir()
    assert not list(place.iterdir())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_leaves_nothing(place: Path, number: signal.Signals, status: int) -> None:
    assert stopped_by(number)[0] == status
    assert not list(place.iterdir())


def test_what_a_killed_command_left_goes_with_the_next_one_and_nothing_else(place: Path) -> None:
    left = stopped_by(signal.SIGKILL)[1]
    others = {".edge-osbuild-other-12345678", ".edge-osbuild-test-abcdefgh"}
    for name in others:
        (place / name).mkdir()
    os.chown(place / ".edge-osbuild-test-abcdefgh", 1000, 1000)
    # What a person may call a file or folder there.
    named = {"edge-test-notes.txt", ".edge-osbuild-test-notes", ".edge-osbuild-test-of-another"}
    for name in named:
        (place / name).write_text("precious")
    (place / "edge-test-7").mkdir()
    (place / ".edge-osbuild-test-87654321").write_text("a file is never ours")
    assert left.is_dir()
    with temporary_folder("test") as mine:
        assert not left.exists()
        with temporary_folder("test"):
            assert mine.is_dir()
    kept = {path.name for path in place.iterdir()}
    assert kept == others | named | {"edge-test-7", ".edge-osbuild-test-87654321"}


def test_a_mount_below_a_leftover_is_a_warning(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leftover = place / ".edge-osbuild-test-12345678"
    leftover.mkdir()
    with mount_tmpfs(leftover / "mounted", 2**16) as mounted, temporary_folder("test"):
        pass
    assert f"{mounted} is a mount point" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_says_what_to_do(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(place / "nothing"))
    with pytest.raises(Error, match="no temporary folder") as caught, temporary_folder("test"):
        pass
    assert "TMPDIR" in str(caught.value.hint)
