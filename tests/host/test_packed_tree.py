"""A tree of files as one file: links, modes and empty folders come back, whatever the umask."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from osbuild.host.cache import tree_digest
from osbuild.host.packed_tree import pack_tree, unpack_tree

MODES = {"usr/bin/program": 0o755, "usr/bin/file": 0o644, "usr/bin/private": 0o400, "usr/bin/setuid": 0o4755}
LINKS = {"etc/unit.service": "/dev/null", "etc/relative": "../usr/bin/file", "etc/dangling": "../no/such/file"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name, mode in MODES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        path.chmod(mode)
    (folder / "etc").mkdir()
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    (folder / "usr/share/empty").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_what_was_packed_is_unpacked_under_every_umask(tree: Path, tmp_path: Path, mask: int) -> None:
    (tmp_path / "tree.tar").write_bytes(pack_tree(tree))
    os.umask(mask)
    unpack_tree(tmp_path / "tree.tar", tmp_path / "copy")
    copy = tmp_path / "copy"
    assert tree_digest(copy) == tree_digest(tree)
    assert {name: (copy / name).stat().st_mode & 0o7777 for name in MODES} == MODES
    assert {name: str((copy / name).readlink()) for name in LINKS} == LINKS
    assert (copy / "usr/share/empty").is_dir()
    assert {path.stat().st_mode & 0o7777 for path in (copy, copy / "usr", copy / "etc")} == {0o755}


def test_the_bytes_do_not_depend_on_umask_owner_or_time(tree: Path) -> None:
    before = pack_tree(tree)
    for name in ("usr/bin/program", "usr/bin/file"):
        (tree / name).chmod((tree / name).stat().st_mode & ~0o077)
        os.utime(tree / name, (5, 5))
    (tree / "usr").chmod(0o700)
    if os.geteuid() == 0:
        os.chown(tree / "usr/bin/file", 1000, 1000)
    assert pack_tree(tree) == before


def test_byte_code_is_left_out(tree: Path) -> None:
    before = pack_tree(tree)
    (tree / "usr/bin/__pycache__").mkdir()
    (tree / "usr/bin/__pycache__/module.cpython-311.pyc").write_bytes(b"code")
    os.utime(tree / "usr/bin", (0, 0))
    assert pack_tree(tree) == before
    with tarfile.open(fileobj=io.BytesIO(before)) as archive:
        assert "usr/bin/file" in archive.getnames()


def test_what_an_archive_can_not_hold_is_refused(tree: Path) -> None:
    os.mkfifo(tree / "usr/fifo")
    with pytest.raises(OSError, match="usr/fifo is not a file"):
        pack_tree(tree)
