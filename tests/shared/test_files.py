"""Files that are replaced as a whole."""

import errno
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from osbuild.shared.files import replace_link, write_file
from osbuild.shared.temporary_file import temporary_file
from tests.support.mounted import mount_tmpfs


def test_a_full_disk_keeps_the_old_file_and_nothing_of_the_new_one(tmp_path: Path) -> None:
    with mount_tmpfs(tmp_path / "small", 2**16) as folder:
        write_file(folder / "state", b"old")
        with pytest.raises(OSError, match="No space") as caught:
            write_file(folder / "state", b"x" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in folder.iterdir()] == ["state"]
        assert (folder / "state").read_bytes() == b"old"
        write_file(folder / "other", b"there is room")


REPEATED = """
import sys
from pathlib import Path
from osbuild.shared.files import replace_link, write_file
for _ in range(60):
    write_file(Path(sys.argv[1]), sys.argv[2].encode() * 100_000)
    replace_link(Path(sys.argv[1] + "-link"), sys.argv[2])
"""


def test_processes_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "state"
    writers = [subprocess.Popen([sys.executable, "-c", REPEATED, path, text]) for text in "abc"]
    contents = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            contents.add(path.read_bytes())
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert contents <= {text.encode() * 100_000 for text in "abc"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["state", "state-link"]


def test_threads_that_write_the_same_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(number: int) -> None:
        write_file(tmp_path / "state", bytes([number]) * 10_000)
        replace_link(tmp_path / "link", str(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(200)))
    data = (tmp_path / "state").read_bytes()
    assert len(data) == 10_000 and len(set(data)) == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "state"]


def test_what_a_power_cut_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    for name in (".state.new", ".link.new", ".link.new.link"):
        (tmp_path / name).write_bytes(b"half")
    write_file(tmp_path / "state", b"new")
    replace_link(tmp_path / "link", "state")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "state"]


def test_the_file_of_another_writer_is_not_removed_as_a_leftover(tmp_path: Path) -> None:
    with temporary_file(tmp_path / "state") as (first, _):
        write_file(tmp_path / "state", b"second")
        assert first.exists() and (tmp_path / "state").read_bytes() == b"second"
        first.rename(tmp_path / "state")
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
