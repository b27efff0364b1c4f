"""Overlays: what they may contain, and that nothing in them reaches the host, whatever packages have put there."""

import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st

from osbuild.config.checks import overlays
from osbuild.config.load import load_profile
from osbuild.config.machine import KernelSettings
from osbuild.config.profile import Profile
from osbuild.host.run import run_command
from osbuild.host.walk import walk_folder
from osbuild.image import update_trust
from osbuild.image.layers import FileMetadata, list_files
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.rootfs.assembly import copy_file_tree, move_state_out, write_settings
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error
from osbuild.shared.image_description import ImageDescription
from tests.support.examples import examples

CAP_NET_RAW = bytes.fromhex("0100000200200000000000000000000000000000")  # capabilities(7)
FOLDERS = (
    "boot", "dev", "etc", "home", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp", "usr/bin", "usr/lib",
    "usr/local", "var/lib/dpkg",
)  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> ImageRoot:
    """What a root of Debian has at least."""
    path = tmp_path / "root"
    for folder in FOLDERS:
        (path / folder).mkdir(parents=True)
    (path / "bin").symlink_to("usr/bin")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\n")
    (path / "usr/lib/os-release").write_text("ID=debian\n")
    return ImageRoot(path)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A folder of the host, with a file. Nothing in it may ever change."""
    path = tmp_path / "host"
    path.mkdir()
    (path / "file").write_text("precious")
    return path


def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def untouched(host: Path) -> bool:
    return [path.name for path in host.iterdir()] == ["file"] and (host / "file").read_text() == "precious"


def profile_of(folder: Path) -> Path:
    (folder / "shop.yaml").write_text(
        "name: shop\nversion: 1.0.0\noverlays: [./tree]\nkernel: {modules: [loop], sysctls: {vm.swappiness: '1'}}\n"
    )
    return folder / "shop.yaml"


NAMES = st.sampled_from(
    ["etc", "usr", "lib", "bin", "var", "tmp", "boot", "site", "local", "edge-osbuild", "os-release", "machine-id",
     "tmpfiles.d", "a b", ".wh.x", "x.py", "passwd", "sysimage"]
)  # fmt: skip
PLACES = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
SHOP = Profile(name="shop", version="1.0.0", kernel=KernelSettings(modules=("loop",), sysctls={"vm.swappiness": "1"}))
# To nothing but a folder of the test: code that follows one would do so as root.
LEADS = st.sampled_from(
    ["HOST", "HOST/file", "../../../../../../../../HOST", "/proc/self/root/HOST", "site", "usr/lib"]
)
ENTRIES = st.lists(st.tuples(PLACES, st.one_of(st.just("folder"), st.just("file"), LEADS)), max_size=8)


def fill(base: Path, entries: list[tuple[str, str]], host: Path) -> None:
    """Create what fits: files and folders never by way of a link, so that only the build could leave `base`."""
    for name, kind in entries:
        path = base / name
        if any(folder.is_symlink() for folder in (path, *path.parents)) or path.exists():
            continue
        with suppress(FileExistsError, NotADirectoryError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "folder":
                path.mkdir()
            elif kind == "file":
                path.write_text("root:x:0:\n")
            else:
                path.symlink_to(kind.replace("/HOST", str(host)).replace("HOST", str(host)))


@settings_of(max_examples=examples(100), deadline=None)
@given(left=ENTRIES, first=ENTRIES, second=ENTRIES)
def test_elements_and_overlays_never_change_the_host(
    left: list[tuple[str, str]], first: list[tuple[str, str]], second: list[tuple[str, str]]
) -> None:
    """Two overlays over what elements have left of a root; the checks are left out, for the worst case."""
    with TemporaryDirectory() as folder:
        host, root = Path(folder, "host"), Path(folder, "root")
        host.mkdir()
        (host / "file").write_text("precious")
        root.mkdir()
        fill(root, left, host)
        fill(root, [(name, "folder") for name in FOLDERS], host)
        fill(root, [(name, "file") for name in ("etc/passwd", "etc/group", "usr/lib/os-release")], host)
        for name, entries in (("tree", first), ("tree2", second)):
            Path(folder, name).mkdir()
            fill(Path(folder, name), entries, host)
            with suppress(Error):
                copy_file_tree(Path(folder, name), ImageRoot(root), 1000)
        with suppress(Error):
            write_settings(ImageRoot(root), SHOP, ImageDescription())
        with suppress(Error):
            move_state_out(ImageRoot(root))
        assert untouched(host)


# Where the build itself writes, and where it deletes: a link there, from an overlay or an element, leads to the host.
WRITES = ("usr/lib/edge-osbuild", "usr/lib/tmpfiles.d", "usr/lib/modules-load.d", "usr/lib/sysctl.d",
          "usr/lib/sysimage", "var", "boot", "tmp", "run", "dev", "proc", "sys", "efi", "home", "opt", "usr/local",
          "etc/machine-id", "usr/lib/os-release")  # fmt: skip


@pytest.mark.parametrize("place", WRITES)
def test_no_link_of_a_root_leads_the_build_to_the_host(place: str, root: ImageRoot, host: Path, tmp_path: Path) -> None:
    """The worst that an element can leave: an absolute link to the host's folder or file where the build writes."""
    tree(tmp_path)
    loaded = load_profile(profile_of(tmp_path))
    root.remove_path(place)
    to = host / "file" if place in ("etc/machine-id", "usr/lib/os-release") else host
    root.make_link(place, to)
    try:
        write_settings(root, loaded.profile, ImageDescription())
        move_state_out(root)
    except Error as error:
        assert str(to) in str(error) or place in str(error)
    assert untouched(host)


def test_an_overlay_writes_nothing_through_a_link_of_the_root(root: ImageRoot, host: Path, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "etc/site").mkdir(parents=True)
    (files / "etc/site/file").write_text("of the overlay")
    root.make_link("etc/site", host)
    with pytest.raises(Error) as caught:
        copy_file_tree(files, root, 1000)
    assert "overlay" in str(caught.value) and "/etc/site" in str(caught.value)
    assert str(host) in str(caught.value.hint)
    assert untouched(host)


def test_a_link_inside_the_image_is_followed_inside_the_image(root: ImageRoot, host: Path) -> None:
    """An absolute link means a path of the image: that is how a device will read it."""
    root.make_folder("usr/lib/site")
    root.make_link("etc/site", "/usr/lib/site")
    root.write_file("etc/site/file", "text")
    root.write_file("../../../etc/above", "text")
    root.make_link("etc/up", "../../../../../etc")
    assert (root.path / "usr/lib/site/file").read_text() == "text"
    assert root.read_file("etc/up/above") == b"text"
    with pytest.raises(Error, match="not in the image"):
        root.make_link("etc/gone", host)
        root.write_file("etc/gone/file", "text")
    assert untouched(host)


@pytest.mark.parametrize("name", ["tree", "tree/"])
def test_a_build_that_an_overlay_misuses_ends_before_anything_is_made(name: str, tmp_path: Path, host: Path) -> None:
    files = tree(tmp_path)
    (files / "var").symlink_to(host)
    with pytest.raises(Error, match="/var"):
        load_profile(profile_of(tmp_path))
    assert untouched(host)


@pytest.mark.parametrize(
    ("path", "fragments"),
    [
        ("bin/tool", ("link to usr/bin", "move its files to usr/bin")),
        ("lib/systemd/system/a.service", ("link to usr/lib",)),
        ("lib64/a.so", ("usr/lib64",)),
        ("sbin/tool", ("usr/sbin",)),
        *((f"{place}/file", (f"/{place}", "move the file")) for place in overlays.LOST),
        ("usr/local/bin/tool", ("data partition", "tmpfiles.d")),
        ("opt/vendor/bin/tool", ("data partition",)),
        *((path, ("written by the build",)) for path in overlays.WRITTEN),
        ("etc/.wh.passwd", (".wh.",)),
    ],
)
def test_what_a_device_would_not_see_is_refused(path: str, fragments: tuple[str, ...], tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / path).parent.mkdir(parents=True)
    (files / path).write_text("text")
    with pytest.raises(Error) as caught:
        overlays.check_overlay(files)
    messages = f"{caught.value} {caught.value.hint}"
    assert all(word in messages for word in (*fragments, "overlay", "/tree"))


FOLDERS_OF_THE_BUILD = [
    "edge-osbuild",
    "issue.d",
    "modules-load.d",
    "motd.d",
    "rauc",
    "sysctl.d",
    "sysimage",
    "tmpfiles.d",
]


@pytest.mark.parametrize(
    "path",
    ["bin", "sbin", "lib", "lib64", "etc", "usr", "usr/lib", "usr/bin", "var", "opt",
     *(f"usr/lib/{name}" for name in FOLDERS_OF_THE_BUILD)],
)  # fmt: skip
def test_no_link_takes_the_place_of_a_folder_of_the_system(path: str, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / path).parent.mkdir(parents=True, exist_ok=True)
    (files / path).symlink_to("/usr/lib/site")
    with pytest.raises(Error, match=f"/{path} "):
        overlays.check_overlay(files)


@pytest.mark.parametrize("to", [None, "/nowhere", "other"])
def test_a_folder_of_the_image_is_never_replaced(to: str | None, root: ImageRoot, tmp_path: Path) -> None:
    root.write_file("usr/lib/vendor/file", "of a package")
    files = tree(tmp_path)
    (files / "usr/lib").mkdir(parents=True)
    if to:
        (files / "usr/lib/vendor").symlink_to(to)
    else:
        (files / "usr/lib/vendor").write_text("a file")
    overlays.check_overlay(files)
    with pytest.raises(Error, match="/usr/lib/vendor would replace a folder"):
        copy_file_tree(files, root, 1000)
    assert root.read_file("usr/lib/vendor/file") == b"of a package"


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


KINDS: dict[str, Callable[[Path], None]] = {
    "FIFO": os.mkfifo,
    "socket": a_socket,
    "device": lambda path: os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3)),
    "hard link": lambda path: os.link(path.with_name("file"), path),
}


def test_a_name_in_an_overlay_forges_no_line_of_an_error(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "opt").mkdir(parents=True)
    (files / "opt/a\nerror: forged").touch()
    with pytest.raises(Error) as caught:
        overlays.check_overlay(files)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_image_cannot_have_is_refused(kind: str, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "etc").mkdir()
    (files / "etc/file").touch()
    overlays.check_overlay(files)
    KINDS[kind](files / "etc/odd")
    with pytest.raises(Error, match=f"/etc/odd .*{kind}"):
        overlays.check_overlay(files)


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"ID=shop\nIMAGE_VERSION=7\n", "sets IMAGE_VERSION in line 2, which the build writes", "`version`"),
        (b"IMAGE_ID=shop\n", "sets IMAGE_ID in line 1", "`name`"),
        (b"NAME=\xff\n", "has the byte 0xff at offset 5", "UTF-8"),
        (b"#" * 70_000, "has more than 65536 bytes", "os-release(5)"),
    ],
)
def test_an_os_release_that_the_build_would_change_is_refused(
    data: bytes, message: str, hint: str, tmp_path: Path
) -> None:
    files = tree(tmp_path)
    (files / "usr/lib").mkdir(parents=True)
    (files / "usr/lib/os-release").write_bytes(data)
    with pytest.raises(Error) as caught:
        overlays.check_overlay(files)
    assert f"/usr/lib/os-release {message}" in caught.value.message and hint in str(caught.value.hint)


def test_other_lines_of_an_overlay_s_os_release_are_those_of_the_image(root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "usr/lib").mkdir(parents=True)
    (files / "usr/lib/os-release").write_text('ID=shop\nVERSION_ID="7"\nIMAGE_OF=mine\n')
    overlays.check_overlay(files)
    copy_file_tree(files, root, 1000)
    write_settings(root, Profile("shop", "1.0.0"), ImageDescription())
    lines = root.read_file("usr/lib/os-release").decode().splitlines()
    assert lines == ["ID=shop", 'VERSION_ID="7"', "IMAGE_OF=mine", "IMAGE_ID=shop", "IMAGE_VERSION=1.0.0"]


def test_an_error_of_an_overlay_has_the_position_in_the_profile(tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "bin").mkdir()
    path = tmp_path / "shop.yaml"
    path.write_text("name: shop\nversion: 1.0.0\noverlays: [base, ./tree]\n")
    with pytest.raises(Error, match="/bin would replace /bin, which is a link") as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:3:18" and f"overlay {files}: " in caught.value.message


def test_a_file_that_is_linked_from_outside_of_the_overlay_is_none_of_its_business(tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "file").touch()
    os.link(files / "file", tmp_path / "elsewhere")
    overlays.check_overlay(files)


def test_folders_and_links_of_var_are_created_on_the_device_with_odd_names_too(root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "var/lib/a b%").mkdir(parents=True)
    (files / "var/lib/link").symlink_to("/usr/lib/100%")
    overlays.check_overlay(files)
    copy_file_tree(files, root, 1000)
    move_state_out(root)
    lines = root.read_file("usr/lib/tmpfiles.d/00-edge-var.conf").decode().splitlines()
    assert 'd "/var/lib/a b%%" 0755 root root -' in lines
    assert "L /var/lib/link - - - - /usr/lib/100%%" in lines


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6711, 0o4750, 0o440, 0o400, 0o555])
def test_bits_that_were_set_on_purpose_are_kept(mode: int, root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "tool").write_text("text")
    os.chown(files / "tool", 1000 if mode < 0o1000 else 0, 1000 if mode < 0o1000 else 0)
    (files / "tool").chmod(mode)
    copy_file_tree(files, root, 1000)
    status = (root.path / "tool").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0)


@pytest.mark.parametrize(
    ("mode", "owner", "message"),
    [(0o4755, (1000, 0), "setuid for the user 1000"), (0o2755, (0, 7), "setgid for the group 7")],
)
def test_a_file_with_the_rights_of_another_user_does_not_get_those_of_root(
    mode: int, owner: tuple[int, int], message: str, root: ImageRoot, tmp_path: Path
) -> None:
    files = tree(tmp_path)
    (files / "tool").write_text("text")
    os.chown(files / "tool", *owner)
    (files / "tool").chmod(mode)
    with pytest.raises(Error, match=f"/tool is {message}"):
        overlays.check_overlay(files)
    with pytest.raises(Error, match=f"/tool is {message}"):
        copy_file_tree(files, root, 1000)
    assert root.status("tool") is None


@pytest.mark.parametrize("name", ["passwd", "group"])
@pytest.mark.parametrize("line", [b"root:x:abc:0", b"\xff:x:0:0", b"root", b":x:0:0", b"root:x:\xb2:0", b"root:x:-1:0"])
def test_an_invalid_account_is_one_clear_error(name: str, line: bytes, root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "etc").mkdir()
    (files / "etc" / name).write_bytes(b"root:x:0:0::/root:/bin/sh\n\n" + line + b"\n")
    with pytest.raises(Error, match=f"/etc/{name} has an invalid line 3") as caught:
        overlays.check_overlay(files)
    assert caught.value.where and caught.value.hint
    copy_file_tree(files, root, 1000)
    with pytest.raises(Error, match="has an invalid line 3") as caught:
        move_state_out(root)
    assert caught.value.where == f"/etc/{name} of the image" and caught.value.hint


def test_attributes_that_an_image_does_not_keep_are_named(tmp_path: Path) -> None:
    files = tree(tmp_path)
    for name in ("plain", "labelled", "secret", "ping"):
        (files / name).touch()
    (files / "folder").mkdir()
    os.setxattr(files / "labelled", "user.note", b"x")
    os.setxattr(files / "ping", "security.capability", CAP_NET_RAW)
    entries = ((1, 6, -1), (2, 4, 1000), (4, 4, -1), (16, 4, -1), (32, 4, -1))  # tag, permissions, user (acl(5))
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    os.setxattr(files / "secret", "system.posix_acl_access", acl)
    os.setxattr(files / "folder", "system.posix_acl_default", acl)
    assert overlays.find_dropped_attributes(files) == ["folder", "labelled", "secret"]


def test_a_sticky_folder_stays_open_to_all(root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "spool").mkdir()
    (files / "spool").chmod(0o1777)
    copy_file_tree(files, root, 1000)
    assert stat.S_IMODE((root.path / "spool").stat().st_mode) == 0o1777


def test_capabilities_of_a_program_are_kept(root: ImageRoot, tmp_path: Path) -> None:
    files = tree(tmp_path)
    (files / "ping").write_text("text")
    os.setxattr(files / "ping", "security.capability", CAP_NET_RAW)
    copy_file_tree(files, root, 1000)
    assert os.getxattr(root.path / "ping", "security.capability") == CAP_NET_RAW


def test_a_private_file_that_everybody_could_read_is_named_unless_it_is_the_umask(tmp_path: Path) -> None:
    files = tree(tmp_path)
    for name, mode in (("key", 0o600), ("other", 0o644), ("kept", 0o400)):
        (files / name).touch()
        (files / name).chmod(mode)
    assert overlays.find_exposed(files) == ["key"]
    for name in ("other", "kept"):
        (files / name).chmod(0o600)
    assert overlays.find_exposed(files) == []


def made_under(mask: int, folder: Path) -> dict[str, FileMetadata]:
    """A root that is composed, with its overlay checked out, under a umask; times left out."""
    before = os.umask(mask)
    try:
        root, files = ImageRoot(folder / "root"), folder / "tree"
        for name in FOLDERS:
            (root.path / name).mkdir(parents=True)
        for path in (root.path, *root.path.rglob("*")):
            path.chmod(0o755)  # as tar extracts them
            os.chown(path, 0, 0)
        (files / "usr/lib/site/deep").mkdir(parents=True)
        (files / "usr/lib/site/deep/file").write_text("text")
        (files / "usr/lib/site/program").write_text("text")
        (files / "usr/lib/site/program").chmod(0o777 & ~mask)
        (files / "var/lib/site").mkdir(parents=True)
        root.write_file("etc/passwd", "root:x:0:0::/root:/bin/sh\n")
        root.write_file("etc/group", "root:x:0:\n")
        root.write_file("usr/lib/os-release", "ID=debian\n")
        copy_file_tree(files, root, 1000)
        write_settings(root, load_profile(profile_of(folder)).profile, ImageDescription(name="shop"))
        move_state_out(root)
        return {path: FileMetadata(**{**vars(metadata), "time": 0}) for path, metadata in list_files(root.path).items()}
    finally:
        os.umask(before)


def test_an_image_does_not_depend_on_the_umask_or_on_setgid_folders_around(tmp_path: Path) -> None:
    """A checkout and a cache that a team shares are often in a setgid folder, which every folder in it becomes too."""
    trees = []
    for mask, mode in ((0o022, 0o755), (0o000, 0o755), (0o077, 0o755), (0o022, 0o2755)):
        folder = tmp_path / f"{mask:o}-{mode:o}"
        folder.mkdir()
        folder.chmod(mode)
        os.chown(folder, -1, 1000)
        trees.append(made_under(mask, folder))
    assert trees[0] == trees[1] == trees[2] == trees[3]
    assert stat.S_IMODE(trees[0]["usr/lib/site/program"].mode) == 0o755
    assert stat.S_IMODE(trees[0]["usr/lib/site/deep/file"].mode) == 0o644


def test_programs_that_make_parts_of_an_image_have_a_fixed_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        run_command(["mkdir", tmp_path / "made"], umask=0o022)
        run_command(["mkdir", tmp_path / "private"])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "private").stat().st_mode) == 0o700


def test_every_file_that_says_whose_updates_are_taken_is_refused_in_an_overlay(tmp_path: Path) -> None:
    keys = authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess(), development=True)
    assert {str(path) for path in update_trust.trust_files("any", keys, boot="/efi")} <= overlays.WRITTEN.keys()


def test_shipped_overlays_are_fine() -> None:
    for path in sorted(overlay_folders()):
        overlays.check_overlay(path)
        assert list(walk_folder(path))


def overlay_folders() -> list[Path]:
    project = Path(__file__).parents[2]
    return [*(project / "overlays").iterdir(), *(project / "qemu-tests/profiles/overlays").iterdir()]
