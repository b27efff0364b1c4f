"""Overlays that change while they are read, or have odd names: the image has what is there, or none is made."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from osbuild.config.checks import overlays
from osbuild.config.load import load_profile
from osbuild.config.profile import Profile, User
from osbuild.host.cache import Cache, tree_digest
from osbuild.host.walk import walk_folder
from osbuild.rootfs import assembly, element_search, image_accounts
from osbuild.rootfs.assembly import copy_file_tree, move_state_out
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error
from tests.rootfs.test_overlays import FOLDERS
from tests.support import networks

NAMES = (
    b"line\nbreak", b"\xff\xfe", b"tab\tname", b"return\rname", b'quote"s', b"single'", b"back\\slash", b"per%cent",
    b"sp ace", b" before", b"after ", b"-dash", b"#hash", b"\x01", b"\x7f", b"a" * 250, "ünï€".encode(), b"$HOME", b"*",
    b"[x]", b"~", b":colon", b"x\x1b[31m", b"line\nd \\x2fevil 0755 root root -", b"\\x41",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> ImageRoot:
    """What a root of Debian has at least."""
    path = tmp_path / "root"
    for folder in FOLDERS:
        (path / folder).mkdir(parents=True)
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    return ImageRoot(path)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """An overlay with a file in a folder."""
    path = tmp_path / "tree"
    (path / "etc/site").mkdir(parents=True)
    (path / "etc/site/file").write_text("of the overlay")
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the host with a file of the same name."""
    path = tmp_path / "host"
    path.mkdir()
    (path / "file").write_text("secret of the host")
    return path


def swap_folder(files: Path, host: Path) -> None:
    (files / "etc/site").rename(files.parent / "aside")
    (files / "etc/site").symlink_to(host)


def swap_file(files: Path, host: Path) -> None:
    (files / "etc/site/file").unlink()
    (files / "etc/site/file").symlink_to(host / "file")


def hard_link(files: Path, host: Path) -> None:
    (files / "etc/site/file").unlink()
    os.link(host / "file", files / "etc/site/file")


def fifo(files: Path, host: Path) -> None:
    (files / "etc/site/file").unlink()
    os.mkfifo(files / "etc/site/file")


@pytest.mark.parametrize("moment", ["etc", "etc/site", "etc/site/file"])
@pytest.mark.parametrize("swap", [swap_folder, swap_file, hard_link, fifo])
def test_a_file_that_is_replaced_during_the_copy_of_an_overlay_is_not_in_the_image(
    moment: str, swap: Callable[[Path, Path], None], root: ImageRoot, files: Path, host: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Someone who may write to an overlay need not be allowed to read all of the host, as the build is."""
    checked = assembly.check_replaces

    def check_place(tree: Path, path: Path, target: ImageRoot, *, folder: bool) -> None:
        checked(tree, path, target, folder=folder)  # type: ignore[arg-type]
        if str(path) == moment:
            swap(files, host)

    monkeypatch.setattr(assembly, "check_replaces", check_place)
    try:
        copy_file_tree(files, root, 1000)
    except Error as error:
        assert "overlay" in str(error) and error.hint
    if swap is hard_link and moment != "etc/site/file":  # it was a file of the overlay when that was looked at
        return
    contents = [path.read_text() for path in root.path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert "secret of the host" not in contents


def test_a_link_in_the_place_of_a_folder_is_not_followed_by_a_walk(files: Path, host: Path) -> None:
    results = []
    with pytest.raises(NotADirectoryError):
        for each in walk_folder(files):
            results.append(str(each.path))
            if str(each.path) == "etc/site":
                swap_folder(files, host)
    assert results == ["etc", "etc/site"]


def test_names_of_any_bytes_below_var_are_made_again_on_the_device(root: ImageRoot, tmp_path: Path) -> None:
    """By the systemd-tmpfiles of the device."""
    files = tmp_path / "tree"
    (files / "var/lib").mkdir(parents=True)
    for number, name in enumerate([*map(os.fsdecode, NAMES), "x\n", " sp ", "a\\nb", "%H"]):
        (files / "var/lib" / name).mkdir()
        (files / f"var/lib/to-{number}").symlink_to(name)
    overlays.check_overlay(files)
    copy_file_tree(files, root, 1000)
    move_state_out(root)
    device = tmp_path / "device"
    for part in ("etc/passwd", "etc/group", "usr/lib/tmpfiles.d/00-edge-var.conf"):
        (device / part).parent.mkdir(parents=True, exist_ok=True)
        (device / part).write_bytes(root.read_file(part))
    networks.network_tools().run_command(["systemd-tmpfiles", "--create", f"--root={device}"], [device])
    (device / "var/lib/dpkg").unlink()  # the package database
    assert tree_digest(device / "var/lib") == tree_digest(files / "var/lib")


def test_a_large_file_keeps_its_holes_and_one_larger_than_a_slot_is_refused(root: ImageRoot, files: Path) -> None:
    with (files / "etc/site/file").open("wb") as file:
        file.seek(2**30)
        file.write(b"end")
    copy_file_tree(files, root, 1000)
    status = (root.path / "etc/site/file").stat()
    assert status.st_size == 2**30 + 3 and status.st_blocks * 512 < 2**20
    overlays.check_overlay(files, largest=2**31)
    with pytest.raises(Error, match="/etc/site/file has 1073741827 bytes, more than a slot") as caught:
        overlays.check_overlay(files, largest=2**30)
    assert "disk.slot" in str(caught.value.hint)
    (files.parent / "shop.yaml").write_text("name: shop\nversion: 1.0.0\noverlays: [./tree]\ndisk: {slot: 512 MiB}\n")
    with pytest.raises(Error, match="more than a slot"):
        load_profile(files.parent / "shop.yaml")


def test_what_is_made_of_files_that_were_edited_meanwhile_is_not_kept(tmp_path: Path) -> None:
    """Its key is that of the older files: whoever has those again would get what was made of the newer ones."""
    cache, hook = Cache(tmp_path / "cache"), tmp_path / "mine/install.d/10-hook"
    hook.parent.mkdir(parents=True)
    hook.write_text("old")

    def key() -> str:
        return element_search.elements_key([tmp_path / "mine"])

    def make(path: Path) -> None:
        hook.write_text("new")
        shutil.copy(hook, path)

    with pytest.raises(Error, match="were changed during the build") as caught:
        cache.get_or_make("rootfs", key(), make, again=key)
    assert caught.value.hint
    assert list(cache.folder("rootfs").iterdir()) == []
    assert cache.get_or_make("rootfs", key(), make, again=key).read_text() == "new"


def test_accounts_are_those_of_the_image_wherever_its_links_lead(root: ImageRoot, tmp_path: Path) -> None:
    """An absolute link means a path of the image: that of this host is another one."""
    (tmp_path / "passwd").write_text("admin:x:1000:1000::/home/admin:/bin/bash\n")
    root.make_link("etc/passwd", tmp_path / "passwd")
    profile = Profile(name="shop", version="1.0.0", users=(User(name="admin"),))
    with pytest.raises(Error, match="/etc/passwd of the image"):
        image_accounts.check_image_accounts(profile, root.path)
    root.write_file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n")
    root.make_link("usr/bin/bash", "/bin/sh")
    root.make_link("bin", "/usr/bin")
    image_accounts.check_image_accounts(profile, root.path)


def test_the_digest_of_a_tree_stays_the_same(tmp_path: Path) -> None:
    """The digest of a tree has not changed, or every entry of every cache would count as damaged."""
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text("contents")
    (tmp_path / "deep/file").chmod(0o755)
    (tmp_path / "link").symlink_to("deep//file/")
    os.mkfifo(tmp_path / "pipe")
    os.setxattr(tmp_path / "deep/file", "security.capability", bytes.fromhex("01000002" + "00200000" + "00" * 12))
    assert tree_digest(tmp_path) == "9d019bd339ce0b3580818938e034d3cf0dce08d6e9f2d0b8f3ff5d4b7c9ac813"


@pytest.mark.parametrize("levels", [140, 990, 1500])
def test_folders_that_are_nested_too_deeply_are_one_clear_error(levels: int, files: Path) -> None:
    subprocess.run(["mkdir", "-p", "/".join(["d"] * levels)], cwd=files, check=True)
    try:
        with pytest.raises(Error, match=r"/d/d/d/d/d has more than 128 levels of folders below it"):
            overlays.check_overlay(files)
        with pytest.raises(OSError, match="more than 128 levels of folders"):
            tree_digest(files)
    finally:
        subprocess.run(["rm", "-r", files], check=True)  # Python's own function fails too


def test_folders_may_be_nested_deeply(root: ImageRoot, files: Path) -> None:
    path = Path("etc", *["d"] * 127)
    (files / path).mkdir(parents=True)
    overlays.check_overlay(files)
    copy_file_tree(files, root, 1000)
    assert root.is_folder(path)
