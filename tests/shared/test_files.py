"""Files that are replaced as a whole."""

import errno
import subprocess
from pathlib import Path

import pytest

from osbuild.shared.files import write_file


def test_a_full_disk_keeps_the_old_file_and_nothing_of_the_new_one(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        write_file(tmp_path / "state", b"old")
        with pytest.raises(OSError, match="No space") as caught:
            write_file(tmp_path / "state", b"x" * 200_000)
        assert caught.value.errno == errno.ENOSPC
        assert [path.name for path in tmp_path.iterdir()] == ["state"]
        assert (tmp_path / "state").read_bytes() == b"old"
        write_file(tmp_path / "other", b"there is room")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
