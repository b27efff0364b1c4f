"""A root packed in two layers has exactly the contents of its folder, and a small change moves few blocks."""

import os
import random
import shutil
from pathlib import Path

import pytest

from osbuild.config.load import find_profile, load_profile
from osbuild.host.cache import Cache
from osbuild.image.layers import BaseLayer, FileSystemStamp, list_files, pack_base, pack_root
from osbuild.inputs.lock import read_lock
from osbuild.sandbox.tools_tree import ToolsTree, make_tools_tree

UUID = "8c5c7a0e-7a3f-5d0c-9d9b-0d2f6f0f3a11"
EPOCH = 1_700_000_000
# Like a capability, but longer. A real one is lost when fsck.erofs(1) changes the owner of an extracted file.
NAME, VALUE = "user.edge", bytes.fromhex("0100000200200000000000000000000000000000ff80c3")


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    lock = read_lock(load_profile(find_profile("minimal")), "x86_64")
    assert lock is not None, "an image was built, so there is a lock"
    return make_tools_tree(Cache(), lock.image_tools)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders with files of many sizes, text and random bytes, links, and a program with an extended attribute."""
    folder, chance = tmp_path / "root", random.Random(7)
    for number in range(30):
        part = folder / f"usr/lib/part-{number:02}"
        part.mkdir(parents=True)
        for name in range(40):
            size = int(10 ** chance.uniform(1, 4.7))
            (part / f"{name:02}").write_bytes(chance.randbytes(size // 2) + b"text" * (size // 8))
        (part / "link").symlink_to(f"../part-{number:02}/00")
    os.link(folder / "usr/lib/part-00/00", folder / "usr/lib/part-01/hard")
    (folder / "usr/lib/part-02/01").chmod(0o4755)
    os.chown(folder / "usr/lib/part-02/02", 5, 7)
    os.setxattr(folder / "usr/lib/part-02/03", NAME, VALUE)
    (folder / "etc").mkdir()
    (folder / "etc/motd").write_text("hello\n")
    return set_times(folder)


def set_times(root: Path) -> Path:
    """Set all times like a build."""
    for path in (root, *root.rglob("*")):
        os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    return root


def pack_base_layer(tools: ToolsTree, root: Path, folder: Path) -> BaseLayer:
    pack_base(tools, root, folder, FileSystemStamp(UUID, EPOCH))
    return BaseLayer(folder)


def unpack_checked(tools: ToolsTree, image: Path) -> Path:
    """Check every block of an erofs, extract it, and return the folder."""
    folder = image.with_name("held")
    shutil.rmtree(folder, ignore_errors=True)
    tools.run_command(["fsck.erofs", "--xattrs", f"--extract={folder}", image], [image.parent])
    return folder


def test_added_changed_replaced_and_removed_files_are_so_in_the_image(
    tools: ToolsTree, root: Path, tmp_path: Path
) -> None:
    first = pack_base_layer(tools, root, tmp_path / "base")
    assert list_files(unpack_checked(tools, first.image)) == first.listing() == list_files(root)
    parts = root / "usr/lib"
    (root / "etc/motd").write_text("another" * 900)
    (root / "etc/motd").chmod(0o600)
    (root / "etc/new folder/deep").mkdir(parents=True)
    (root / "etc/new folder/deep/ü.conf").write_text("new")
    for odd in (b"line\nbreak", b"\xff\xfe", b"tab\tname", b"back\\slash", b"sp ace ", b"a" * 250, b"-x", b"\x7f"):
        Path(os.fsdecode(os.fsencode(root / "etc/new folder") + b"/" + odd)).write_bytes(odd)
        Path(os.fsdecode(os.fsencode(root / "etc/new folder") + b"/to" + odd[:200])).symlink_to(os.fsdecode(odd))
    (parts / "part-03").chmod(0o700)
    shutil.rmtree(parts / "part-04")
    (parts / "part-05/07").unlink()
    (parts / "part-06/08").unlink()
    (parts / "part-06/08").symlink_to("/nowhere")
    shutil.rmtree(parts / "part-07")
    (parts / "part-07").symlink_to("part-08")
    (parts / "part-09/link").unlink()
    (parts / "part-09/link").mkdir()
    (parts / "part-09/link/inside").write_text("a folder now")
    shutil.rmtree(parts / "part-10")
    (parts / "part-10").write_text("a file now")
    (parts / "part-02/03").unlink()
    (parts / "part-02/03").write_bytes(b"\x7fELF" * 3000)
    os.setxattr(parts / "part-02/03", NAME, VALUE)
    os.chown(parts / "part-11/00", 3, 4)
    set_times(root)
    pack_root(tools, first, root, tmp_path / "root.erofs", FileSystemStamp(UUID, EPOCH))
    assert list_files(unpack_checked(tools, tmp_path / "root.erofs")) == list_files(root)


def test_the_same_folder_gives_the_same_bytes(tools: ToolsTree, root: Path, tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        (root / "etc/motd").write_text("hello\n")
        set_times(root)
        first = pack_base_layer(tools, root, tmp_path / name)
        (root / "etc/motd").write_text("other\n")
        pack_root(tools, first, set_times(root), tmp_path / f"{name}.erofs", FileSystemStamp(UUID, EPOCH))
        images.append((tmp_path / f"{name}.erofs").read_bytes())
    assert images[0] == images[1]


@pytest.mark.parametrize("size", [7, 300, 3000, 20_000])
def test_a_change_of_one_file_changes_few_blocks(tools: ToolsTree, root: Path, tmp_path: Path, size: int) -> None:
    first = pack_base_layer(tools, root, tmp_path / "base")
    images = []
    for text in ("hello again\n", "x" * size):
        (root / "etc/motd").write_text(text)
        pack_root(tools, first, set_times(root), tmp_path / "root.erofs", FileSystemStamp(UUID, EPOCH))
        data = (tmp_path / "root.erofs").read_bytes()
        images.append([data[offset : offset + 4096] for offset in range(0, len(data), 4096)])
    changed_blocks = sum(old != new for old, new in zip(*images, strict=False)) + abs(len(images[0]) - len(images[1]))
    assert changed_blocks <= 4 + size // 4096
