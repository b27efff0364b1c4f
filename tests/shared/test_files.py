"""Files that are replaced as a whole."""

import errno
from pathlib import Path

import pytest

from osbuild.shared.files import write_file
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
