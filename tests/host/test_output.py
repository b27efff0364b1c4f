"""Output files: complete or not there, on file systems that are full or read-only, over things that are no files."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from osbuild import cli
from osbuild.config.load import find_profile, load_profile
from osbuild.host import output
from osbuild.host.scratch import scratch_folder
from osbuild.inputs import lock
from osbuild.inputs.debian import Deb
from osbuild.shared.errors import Error
from tests.support.mounted import full, mount_tmpfs, read_contents, read_only

PROJECT = Path(__file__).parents[2]
SIZE = 2**20
Trouble = Callable[[Path], AbstractContextManager[Path]]
TROUBLES = pytest.mark.parametrize("trouble", [full, read_only])


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 1 MiB."""
    with mount_tmpfs(tmp_path / "small", SIZE) as folder:
        yield folder


def status(*arguments: str) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(arguments))
    return stopped.value.code


def test_files_appear_together_and_the_marker_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed = []
    replace = Path.replace

    def noted(self: Path, other: Path) -> Path:
        renamed.append(other.name)
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", noted)
    (tmp_path / "moved").write_bytes(b"m" * 9)
    output.publish_files(tmp_path / ".", {"mark": b"1", "a": b"2", "b": tmp_path / "moved"}, marker="mark")
    assert read_contents(tmp_path) == {"a": b"2", "b": b"m" * 9, "mark": b"1"}
    assert renamed == ["a", "b", "mark"]


@TROUBLES
def test_a_full_file_system_keeps_the_older_files(small: Path, tmp_path: Path, trouble: Trouble) -> None:
    output.publish_files(small, {"disk": b"old disk", "mark": b"old"}, marker="mark")
    large = tmp_path / "large"
    large.write_bytes(b"n" * (SIZE // 2))
    before = read_contents(small)
    with trouble(small), pytest.raises(Error, match=r"No space left on device|read-only file system") as caught:
        output.publish_files(small, {"disk": large, "mark": b"new"}, marker="mark")
    assert caught.value.hint
    assert read_contents(small) == before
    assert large.exists()
    output.publish_files(small, {"disk": large, "mark": b"new"}, marker="mark")
    assert read_contents(small) == {"disk": b"n" * (SIZE // 2), "mark": b"new"}


def test_a_file_that_only_partly_fits_leaves_nothing(small: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2 * SIZE))
    with pytest.raises(Error, match="No space left"):
        output.publish_files(small, {"mark": b"1", "disk": large}, marker="mark")
    with pytest.raises(Error, match="No space left"):
        output.write_output(small / "x", bytes(2 * SIZE))
    assert read_contents(small) == {}


def test_holes_stay_holes_on_another_file_system(small: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.seek(8 * SIZE)
        file.write(b"end")
        file.truncate(64 * SIZE)
    expected = sparse.read_bytes()
    output.publish_files(small, {"disk": sparse})
    assert (small / "disk").read_bytes() == expected
    assert not sparse.exists()


def test_a_path_that_is_not_a_file_is_neither_replaced_nor_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    null = Path("/dev/null").stat()
    cases = {
        "fifo": "a FIFO", "folder": "a folder", "socket": "a socket", "/dev/null": "a character device",
        "missing/x": "this folder does not exist", "socket/x": "not a folder|Not a directory",
    }  # fmt: skip
    for name, message in cases.items():
        with pytest.raises(Error, match=message):
            output.write_output(tmp_path / name, b"x")
    assert Path("/dev/null").stat().st_rdev == null.st_rdev
    with pytest.raises(Error, match="not a folder"):
        output.make_folder(tmp_path / "fifo")
    with pytest.raises(Error, match="Not a directory"):
        output.make_folder(tmp_path / "fifo/inner")


def test_a_link_keeps_its_place_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    output.write_output(tmp_path / "link", b"one")
    output.write_output(tmp_path / "link", b"two", mode=0o600)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o600
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(Error, match="cannot be written"):
        output.write_output(tmp_path / "loop", b"x")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / f"{output.SCRATCH}12345678"
    left.mkdir()
    (left / "0").write_bytes(b"x")
    with scratch_folder(tmp_path, output.SCRATCH) as in_use:
        output.write_output(tmp_path / "file", b"y")
        assert sorted(path.name for path in tmp_path.iterdir()) == [in_use.name, "file"]


PROFILE = "name: tiny\nversion: 1.0.0\n"
# A command that writes into the folder {0}, and what has to be there before it.
COMMANDS = {
    "seed": (["seed", "{1}/tiny.yaml", "--node", "n", "-o", "{0}/n.iso"], []),
    "seed folder": (["seed", "{1}/tiny.yaml", "--node", "n", "-o", "{0}/seed"], []),
    "keys init": (["keys", "init", "{0}/keys", "--owner", "me"], []),
    "keys init roots": (["keys", "init", "{1}/new/keys", "--owner", "me", "--root-keys", "{0}/roots"], []),
    "keys keyring": (["keys", "show", "{1}/keys", "--keyring", "{0}/ring"], []),
    "keys rotate": (["keys", "rotate", "{0}/keys"], ["keys", "init", "{0}/keys", "--owner", "me"]),
    "keys rotate root": (["keys", "rotate", "--root", "{0}/keys"], ["keys", "init", "{0}/keys", "--owner", "me"]),
    "keys revoke": (["keys", "revoke", "signer-1", "{0}/keys"], ["keys", "init", "{0}/keys", "--owner", "me"]),
    "build": (["build", "{1}/tiny.yaml", "-o", "{0}/build"], []),
    "build over a build": (["build", "{1}/tiny.yaml", "-o", "{0}"], []),
}


@pytest.mark.parametrize(
    ("name", "trouble"),
    # What a build does with a full disk is tested with `publish`: it takes minutes to get there.
    [
        (name, trouble)
        for name in COMMANDS
        for trouble in (full, read_only)
        if trouble is read_only or "build" not in name
    ],
)
def test_a_command_that_cannot_write_reports_it_and_changes_nothing(
    small: Path, tmp_path: Path, name: str, trouble: Trouble, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    arguments, first = COMMANDS[name]
    assert status("keys", "init", str(tmp_path / "keys"), "--owner", "me") == 0
    if first:
        assert status(*(word.format(small, tmp_path) for word in first)) == 0
    before = read_contents(small)
    capsys.readouterr()
    with trouble(small):
        assert status(*(word.format(small, tmp_path) for word in arguments)) == 1
    output = capsys.readouterr().err
    assert "should not happen" not in output
    assert str(small) in output
    assert "hint:" in output
    assert read_contents(small) == before
    assert not (tmp_path / "new").exists()


def test_a_failed_build_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(PROFILE)
    (tmp_path / "mine").mkdir()
    for folder in ("out/build", "mine"):
        assert status("build", str(tmp_path / "tiny.yaml"), "-o", str(tmp_path / folder), "--locked") == 1
        assert "the lock does not exist" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["mine", "tiny.yaml"]


@TROUBLES
def test_a_lock_that_cannot_be_written_keeps_the_older_one(small: Path, trouble: Trouble) -> None:
    (small / "tiny.yaml").write_text(PROFILE)
    loaded = load_profile(find_profile(str(small / "tiny.yaml")))
    deb = Deb("x", "1", "amd64", "0" * 64, 1)
    new_lock = lock.Lock("x86_64", loaded.profile.architecture, "r", 1, (deb,) * 999, (), (), deb, (), ())
    lock.save_lock(loaded, new_lock)
    before = read_contents(small)
    with trouble(small), pytest.raises(Error, match=r"cannot be written|read-only file system"):
        lock.save_lock(loaded, new_lock)
    assert read_contents(small) == before


def test_standard_output_on_a_full_disk_is_a_clear_error(small: Path) -> None:
    command = [sys.executable, "-m", "osbuild", "profile", "schema"]
    with full(small), (small / "schema.json").open("wb") as file:
        result = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, cwd=PROJECT)
    assert result.returncode == 1
    assert result.stderr.startswith("error: standard output: No space left on device")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT) as reader:
        assert reader.stdout
        assert reader.stderr
        reader.stdout.close()
        assert reader.stderr.read() == b""


def test_a_new_key_folder_is_private_and_an_existing_one_keeps_its_mode(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, shared = tmp_path / "mine", tmp_path / "shared"
    mine.mkdir()
    mine.chmod(0o755)
    shared.mkdir()
    shared.chmod(0o1777)
    assert status("keys", "init", str(mine), "--owner", "me") == 0
    assert status("keys", "init", str(tmp_path / "new"), "--owner", "me") == 0
    assert status("keys", "init", str(shared), "--owner", "me") == 1
    assert "other users may write to this folder" in capsys.readouterr().err
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (mine, shared, tmp_path / "new", mine / "root")}
    assert modes == {"mine": 0o755, "shared": 0o1777, "new": 0o700, "root": 0o700}
    assert not list(shared.iterdir())
    assert stat.S_IMODE((mine / "signer-1.key").stat().st_mode) == 0o600
