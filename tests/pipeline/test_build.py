"""Locks, content keys and the laying together of a system: everything of a build that needs no packages."""

import json
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from osbuild.boot.flow import kernel_command_line
from osbuild.boot.slot import SlotImage
from osbuild.config.board import Board
from osbuild.config.board import load_board as board
from osbuild.config.load import LoadedProfile, find_profile, load_profile
from osbuild.config.machine import DiskSettings
from osbuild.config.metadata import Size
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.host.paths import ELEMENTS
from osbuild.host.run import run_command
from osbuild.image.disk import check_headroom, divide_slot
from osbuild.image.verity import derived_uuid
from osbuild.inputs import lock as locks
from osbuild.inputs.context import BuildContext
from osbuild.inputs.debian import Deb, PackageArchive, find_stale_suites, store_package
from osbuild.inputs.lock import Lock, LockedKubernetes
from osbuild.keys import authority, key_folder
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.key_folder import KeyFolder
from osbuild.pipeline import resolve
from osbuild.pipeline.build import read_unchanged
from osbuild.pipeline.image import describe_image
from osbuild.pipeline.inputs import find_inputs
from osbuild.rootfs.assembly import clamp_times, copy_file_tree, move_state_out
from osbuild.rootfs.element_search import search_path, with_dependencies
from osbuild.rootfs.image_root import ImageRoot
from osbuild.shared.errors import Error

MIB = 2**20
PROFILE = "name: shop\nversion: 1.0.0\noverlays: [tree]\n"
words = st.text("abcdefghijklmnopqrstuvwxyz0123456789+.-~", min_size=1)
names = st.from_regex(r"[a-z0-9][a-z0-9+.-]*", fullmatch=True)
debs = st.builds(
    Deb, names, words, st.sampled_from(["amd64", "all"]), st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(0, 10**9),
)  # fmt: skip
PC = board("x86_64")
A_DEB = Deb("a", "1:2-3", "all", "0" * 64, 5)


def profile(folder: Path, text: str = PROFILE) -> LoadedProfile:
    (folder / "tree/etc").mkdir(parents=True, exist_ok=True)
    (folder / "tree/etc/motd").write_text("hello\n")
    (folder / "shop.yaml").write_text(text)
    return load_profile(folder / "shop.yaml")


def a_lock(loaded: LoadedProfile) -> Lock:
    arch = Architecture.x86_64
    debs = (A_DEB,)
    return Lock("x86_64", arch, resolve.request_key(loaded, PC), 1_700_000_000, debs, debs, debs, A_DEB, debs, debs)


@given(st.lists(debs, max_size=5), debs, st.integers(0, 2**33))
def test_a_lock_reads_back_as_it_was_written(packages: list[Deb], kernel: Deb, epoch: int) -> None:
    lock = Lock(
        "arm64",
        Architecture.arm64,
        "key",
        epoch,
        tuple(packages),
        (),
        tuple(packages),
        kernel,
        (kernel,),
        (kernel,),
        LockedKubernetes(distribution="k3s", version="v1", files={"k3s": "0" * 64}),
        {},
    )
    assert locks.lock_from_json(json.loads(json.dumps(locks.lock_to_json(lock)))) == lock


@pytest.mark.parametrize(
    "pinned",
    [{}, {"distribution": "k3s", "version": "v1", "files": {"k3s": "0" * 64}},
     {"distribution": "upstream", "version": "v1", "files": {}, "requested": "k3s v1", "because": "x", "later": 1}],
)  # fmt: skip
def test_the_kubernetes_of_a_lock_is_written_as_it_was_read(tmp_path: Path, pinned: dict[str, Any]) -> None:
    document = {**locks.lock_to_json(a_lock(profile(tmp_path))), "kubernetes": pinned}
    lock = locks.lock_from_json(document)
    assert locks.lock_to_json(lock) == document
    assert (lock.kubernetes.reason if lock.kubernetes else None) == pinned.get("because")


def test_a_lock_that_pins_only_a_part_of_kubernetes_pins_none(tmp_path: Path) -> None:
    document = {**locks.lock_to_json(a_lock(profile(tmp_path))), "kubernetes": {"version": "v1"}}
    assert locks.lock_from_json(document).kubernetes is None


def test_locks_of_several_architectures_share_a_file(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    first = a_lock(loaded)
    second = replace(first, board="rpi4", architecture=Architecture.arm64, epoch=5)
    locks.save_lock(loaded, first)
    locks.save_lock(loaded, second)
    assert locks.read_lock(loaded, "x86_64") == first
    assert locks.read_lock(loaded, "rpi4") == second
    assert locks.read_lock(loaded, "arm64") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shop.lock.json", "shop.yaml", "tree"]


def test_locks_that_are_written_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    names = [f"board-{number}" for number in range(8)]
    start = threading.Barrier(len(names))

    def save(name: str) -> None:
        start.wait()
        locks.save_lock(loaded, replace(a_lock(loaded), board=name))

    threads = [threading.Thread(target=save, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(locks.read_locks(loaded)) == names


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', "{}", '{"format": 99, "locks": {}}', '{"format": 1}', '{"format": 1, "locks": []}',
     '{"format": 1, "locks": {"x86_64": {}}}', '{"format": 1, "locks": {"x86_64": 3}}', "\0"],
)  # fmt: skip
def test_a_file_that_is_not_a_lock_is_reported_with_a_hint(tmp_path: Path, text: str) -> None:
    loaded = profile(tmp_path)
    (tmp_path / "shop.lock.json").write_text(text)
    with pytest.raises(Error) as caught:
        locks.read_lock(loaded, "x86_64")
    assert "shop.lock.json" in str(caught.value) and "edge-osbuild lock" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "[]", '{"format": 99, "locks": {}}', '{"format": 1, "locks": 5}', "\0"])
def test_a_file_that_is_not_a_lock_is_replaced_by_a_new_lock(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = profile(tmp_path)
    (tmp_path / "shop.lock.json").write_text(text)
    locks.save_lock(loaded, a_lock(loaded))
    assert locks.read_locks(loaded) == {"x86_64": a_lock(loaded)}
    assert "shop.lock.json: this is not a lock" in capsys.readouterr().err


def test_a_damaged_lock_for_another_board_is_kept_as_it_is(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    (tmp_path / "shop.lock.json").write_text('{"format": 1, "locks": {"rpi4": {"epoch": "x"}}}')
    locks.save_lock(loaded, a_lock(loaded))
    assert locks.read_lock(loaded, "x86_64") == a_lock(loaded)
    assert json.loads((tmp_path / "shop.lock.json").read_text())["locks"]["rpi4"] == {"epoch": "x"}
    with pytest.raises(Error, match="is not a lock"):
        locks.read_lock(loaded, "rpi4")


def test_a_lock_that_can_not_be_written_is_refused_before_anything_is_resolved(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    (tmp_path / "shop.lock.json").mkdir()
    with pytest.raises(Error, match="this is a folder, not a file"):
        resolve.make_lock(loaded, PC, BuildContext(Cache(tmp_path / "cache")))
    assert not (tmp_path / "cache").exists()


def test_a_lock_that_is_interrupted_ends_what_still_resolves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve_packages(*_: object) -> tuple[Deb, ...]:
        if threading.current_thread() is threading.main_thread():
            time.sleep(0.5)
            raise KeyboardInterrupt
        run_command(["sleep", "60"])
        return ()

    monkeypatch.setattr(PackageArchive, "update_index", lambda *_: ())
    monkeypatch.setattr(PackageArchive, "resolve_packages", resolve_packages)
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        resolve.make_lock(profile(tmp_path), PC, BuildContext(Cache(tmp_path / "cache")))
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("damage", ["short", "é" * 64, "G" * 64])
def test_a_lock_with_a_damaged_sum_is_refused(tmp_path: Path, damage: str) -> None:
    loaded = profile(tmp_path)
    path = locks.save_lock(loaded, a_lock(loaded))
    path.write_text(path.read_text().replace("0" * 64, damage))
    with pytest.raises(Error, match=r"sha256|is not a lock"):
        locks.read_lock(loaded, "x86_64")


@pytest.mark.parametrize("name", ["../up", "/etc/x", "UP", "a/b", "-a", "a b"])
def test_a_lock_with_a_package_that_would_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    """Names of packages become parts of paths."""
    loaded = profile(tmp_path)
    path = locks.save_lock(loaded, replace(a_lock(loaded), kernel=replace(a_lock(loaded).kernel, name=name)))
    with pytest.raises(Error, match=r"is not a lock: .* is not a package"):
        locks.read_lock(loaded, "x86_64")
    assert name in path.read_text()


def test_a_lock_without_kubernetes_for_a_profile_that_has_it_is_refused(tmp_path: Path) -> None:
    loaded = load_profile(find_profile("edge-server"))
    with pytest.raises(Error, match="does not pin Kubernetes") as caught:
        resolve.locked_kubernetes(loaded, replace(a_lock(loaded), kubernetes=None))
    assert "edge-osbuild lock" in str(caught.value.hint)


def test_locked_wants_a_lock_that_fits(tmp_path: Path) -> None:
    from osbuild.host.cache import Cache

    loaded = profile(tmp_path)
    with pytest.raises(Error, match="the lock does not exist"):
        resolve.current_lock(loaded, PC, BuildContext(Cache(tmp_path / "c"), locked=True))
    locks.save_lock(loaded, replace(a_lock(loaded), board="rpi4"))
    with pytest.raises(Error, match="has no entry for x86_64"):
        resolve.current_lock(loaded, PC, BuildContext(Cache(tmp_path / "c"), locked=True))
    locks.save_lock(loaded, a_lock(loaded))
    assert resolve.current_lock(loaded, PC, BuildContext(Cache(tmp_path / "c"), locked=True)) == a_lock(loaded)
    more = profile(tmp_path, PROFILE + "packages: [htop]\n")
    with pytest.raises(Error, match="does not match the profile"):
        resolve.current_lock(more, PC, BuildContext(Cache(tmp_path / "c"), locked=True))


FOLDER = TemporaryDirectory(prefix="edge-osbuild-keys-")
KEYS = authority.create_keys(Path(FOLDER.name), "Example", PrivateKeyAccess(), development=True)


def key(loaded: LoadedProfile, keys: KeyFolder = KEYS) -> str:
    return find_inputs(loaded, PC, replace(a_lock(loaded), request=""), keys).key


@pytest.mark.parametrize(
    "text", ["hostname: other\n", "users: [{name: me}]\n", "time: {zone: UTC}\n", "description: words\n",
             "agent: {server: https://updates.example}\n", "network: {interfaces: [{name: en*}]}\n"],
)  # fmt: skip
def test_first_boot_config_does_not_make_another_image(tmp_path: Path, text: str) -> None:
    assert key(profile(tmp_path)) == key(profile(tmp_path, PROFILE + text))


@pytest.mark.parametrize(
    "text", ["kernel: {arguments: [debug]}\n", "kernel: {sysctls: {vm.swappiness: 1}}\n", "disk: {slot: 600 MiB}\n",
             "kernel: {modules: [loop]}\n", "health: {deadline: 60}\n"],
)  # fmt: skip
def test_image_keys_make_another_image(tmp_path: Path, text: str) -> None:
    assert key(profile(tmp_path)) != key(profile(tmp_path, PROFILE + text))


def test_the_device_learns_what_the_profile_says_of_updates(tmp_path: Path) -> None:
    loaded = profile(tmp_path, PROFILE + "update: {drain_deadline: 5, snapshot_space: 1 GiB}\n")
    build_inputs = find_inputs(loaded, PC, replace(a_lock(loaded), request=""), KEYS)
    document = json.loads(describe_image(build_inputs, None).to_text())["update"]
    assert document == {"deadline": 3600, "drain_deadline": 5, "snapshots": 3, "snapshot_space": 2**30}


def test_content_mode_name_and_target_of_an_overlays_files_count(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    seen = {key(loaded)}
    file = tmp_path / "tree/etc/motd"
    file.write_text("other\n")
    seen.add(key(loaded))
    file.chmod(0o755)
    seen.add(key(loaded))
    (tmp_path / "tree/etc/link").symlink_to("motd")
    seen.add(key(loaded))
    file.rename(file.with_name("issue"))
    seen.add(key(loaded))
    assert len(seen) == 5


def test_whose_updates_it_takes_makes_another_image_and_who_signs_them_does_not(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    folder = tmp_path / "keys"
    seen = [key(loaded), key(loaded, authority.create_keys(folder, "Example", PrivateKeyAccess()))]
    assert key(loaded, authority.rotate_signer(folder, PrivateKeyAccess())) == seen[1]
    authority.revoke_key(folder, "signer-1", PrivateKeyAccess(), reason="compromised")
    seen += [key(loaded, key_folder.load_keys(folder))]
    assert len(set(seen)) == 3


def test_an_image_trusts_by_its_keys_and_says_at_login_which_those_are(tmp_path: Path) -> None:
    loaded = profile(tmp_path)
    trust = find_inputs(loaded, PC, replace(a_lock(loaded), request=""), KEYS).trust
    assert b"compatible=edge-osbuild-shop-x86_64\n" in trust[Path("usr/lib/rauc/system.conf")]
    assert trust[Path("usr/lib/rauc/keyring.pem")] == KEYS.keyring()
    assert b"DEVELOPMENT" in trust[Path("usr/lib/issue.d/edge-osbuild-keys.issue")]
    real = authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    assert len(find_inputs(loaded, PC, replace(a_lock(loaded), request=""), real).trust) == len(trust) - 2


def test_what_an_element_depends_on_makes_another_root(tmp_path: Path) -> None:
    """By `element-deps`, one after the other, and by links to files beside the element."""
    for name, needed in (("mine", "first\n\n"), ("first", "second base"), ("second", ""), ("apart", "")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "element-deps").write_text(needed)
    (tmp_path / "shared").write_text("one")
    (tmp_path / "mine/10-hook").symlink_to("../shared")
    loaded = profile(tmp_path, PROFILE + "elements: [./mine]\n")
    seen = {key(loaded)}
    (tmp_path / "second/hook").touch()
    seen.add(key(loaded))
    (tmp_path / "shared").write_text("two")
    seen.add(key(loaded))
    assert len(seen) == 3
    (tmp_path / "apart/hook").touch()
    assert key(loaded) in seen


def test_elements_are_looked_for_in_the_same_order_always(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "cab"]
    assert search_path([folder / "element" for folder in (*folders, *folders)]) == [ELEMENTS, *folders]


def test_a_build_is_whole_only_with_all_its_files(tmp_path: Path) -> None:
    assert read_unchanged(tmp_path, "k") is None
    (tmp_path / "manifest.json").write_text(json.dumps({"key": "k", "files": {"disk.img": {"size": 3}}}))
    assert read_unchanged(tmp_path, "k") is None
    (tmp_path / "disk.img").write_text("abc")
    assert read_unchanged(tmp_path, "k") is not None
    assert read_unchanged(tmp_path, "other") is None
    (tmp_path / "disk.img").write_text("ab")
    assert read_unchanged(tmp_path, "k") is None
    (tmp_path / "manifest.json").write_text("[]")
    assert read_unchanged(tmp_path, "k") is None


def slot(tmp_path: Path, size: int) -> SlotImage:
    path = tmp_path / "root.erofs"
    with path.open("wb") as file:
        file.truncate(size)
    return SlotImage(path, path, "ab" * 32, "cd" * 32, size // 4096)


def test_a_root_that_leaves_no_headroom_is_refused_with_the_size_that_would_do(tmp_path: Path) -> None:
    disk = DiskSettings(slot=Size(512 * MIB), headroom=30)
    assert check_headroom(disk, slot(tmp_path, 100 * MIB)) == 81
    with pytest.raises(Error) as caught:
        check_headroom(disk, slot(tmp_path, 400 * MIB))
    assert "512 MiB" in str(caught.value) and "30 %" in str(caught.value)
    proposed = int(str(caught.value.hint).split("disk.slot: ")[1].split(" MiB")[0])
    check_headroom(DiskSettings(slot=Size(proposed * MIB), headroom=30), slot(tmp_path, 400 * MIB))


@given(st.integers(64, 16 * 1024))
def test_the_hash_tree_of_a_full_slot_fits(mebibytes: int) -> None:
    sizes = divide_slot(DiskSettings(slot=Size(mebibytes * MIB)))
    blocks, tree = sizes.root // 4096, 1
    while blocks > 1:
        blocks = -(-blocks // 128)
        tree += blocks
    assert sizes.root + sizes.hash_tree == mebibytes * MIB
    assert tree * 4096 <= sizes.hash_tree


def test_the_command_line_names_slot_and_hash_and_ends_with_the_profiles_words(tmp_path: Path) -> None:
    line = kernel_command_line("b", slot(tmp_path, 8192), PC, ["one", "two=3"]).split()
    assert {"edge.slot=b", "roothash=" + "ab" * 32, "edge.blocks=2", "ro"} <= set(line)
    assert line[-2:] == ["one", "two=3"]


def test_a_kernel_is_locked_down_if_it_can_load_its_modules_then(tmp_path: Path) -> None:
    image = slot(tmp_path, 8192)

    def locked(machine: Board, *extra: str) -> list[str]:
        return [word for word in kernel_command_line("a", image, machine, extra).split() if word.startswith("lockdown")]

    assert locked(PC) == ["lockdown=integrity"]
    assert locked(board("armv7")) == [], "Debian does not sign the modules of its ARMv7 kernel"
    assert locked(PC, "lockdown=confidentiality") == ["lockdown=confidentiality"]
    assert locked(replace(PC, arguments=("lockdown=none",))) == ["lockdown=none"]


def test_derived_uuids_are_the_same_for_the_same_names() -> None:
    assert derived_uuid("a", "b") == derived_uuid("a", "b") != derived_uuid("a", "c")


def test_a_package_with_other_bytes_is_not_taken(tmp_path: Path) -> None:
    file = tmp_path / "a.deb"
    file.write_bytes(b"12345")
    wrong = Deb("a", "1", "all", "0" * 64, 5)
    right = replace(wrong, sha256="5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5")
    (tmp_path / "store").mkdir()
    assert not store_package(file, wrong, tmp_path / "store")
    assert not store_package(file, replace(right, size=6), tmp_path / "store")
    assert not store_package(tmp_path / "none", right, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []
    assert store_package(file, right, tmp_path / "store")


def test_an_overlay_merges_folders_and_replaces_files_and_links(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "root"
    for folder in (tree / "etc/a", root / "etc/a"):
        folder.mkdir(parents=True)
    (root / "etc/a").chmod(0o711)
    (root / "etc/a/kept").write_text("kept")
    (root / "etc/outside").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("victim")
    (tree / "etc/a/new").write_text("new")
    (tree / "etc/outside").write_text("file now")
    copy_file_tree(tree, ImageRoot(root), 1000)
    assert (root / "etc/a/kept").read_text() == "kept"
    assert (root / "etc/a").stat().st_mode & 0o7777 == 0o711
    assert (root / "etc/a/new").stat().st_mtime == 1000
    assert (root / "etc/outside").read_text() == "file now" and not (root / "etc/outside").is_symlink()
    assert (tmp_path / "victim").read_text() == "victim"


def test_an_overlays_python_module_is_not_run_as_the_one_it_replaces(tmp_path: Path) -> None:
    tree, root = tmp_path / "tree", tmp_path / "root"
    tree.mkdir()
    root.mkdir()
    for name in ("greet", "greeting"):
        (root / f"{name}.py").write_text("print('old')\n")
    run_command(["python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", root])
    (tree / "greet.py").write_text("print('new')\n")
    copy_file_tree(tree, ImageRoot(root), 1000)
    assert run_command(["python3", "-B", "-c", "import greet, greeting"], cwd=root) == "new\nold\n"
    assert [path.name.split(".")[0] for path in root.glob("__pycache__/*")] == ["greeting"]


@pytest.mark.parametrize("name", ["my elements", "a:b", "100%", "new\nline"])
def test_elements_in_a_folder_that_diskimage_builder_cannot_read_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(Error, match="diskimage-builder cannot find elements") as caught:
        search_path([tmp_path / name / "site"])
    assert caught.value.where == str(tmp_path / name) and caught.value.hint
    assert search_path([tmp_path / "mine" / "site"]) == [ELEMENTS, tmp_path / "mine"]


def test_dependencies_of_an_element_that_are_no_text_are_none(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/element-deps").write_bytes(b"\xff\xfe\n")
    assert with_dependencies([tmp_path / "site"]) == [tmp_path / "site"]


def test_no_time_after_the_epoch_is_left(tmp_path: Path) -> None:
    for name, seconds in (("old", 500), ("made", 0), ("new", 9000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (seconds, seconds))
    clamp_times(tmp_path, 1000)
    times = {path.name: path.stat().st_mtime for path in tmp_path.iterdir()}
    assert times == {"old": 500, "made": 1000, "new": 1000}


def test_the_folders_of_var_are_made_again_on_the_device(tmp_path: Path) -> None:
    for folder in ("etc", "usr/lib/tmpfiles.d", "usr/local/bin", "home", "root", "opt", "srv", "mnt",
                   "var/lib/dpkg/info", "var/log/journal", "boot/grub", "tmp", "run", "dev"):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tmp_path / "etc/group").write_text("root:x:0:\n")
    (tmp_path / "var/lib/dpkg/status").write_text("Package: a\n")
    (tmp_path / "var/log/journal").chmod(0o2755)
    (tmp_path / "var/run").symlink_to("/run")
    move_state_out(ImageRoot(tmp_path))
    lines = (tmp_path / "usr/lib/tmpfiles.d/00-edge-var.conf").read_text().splitlines()
    assert "d /var/log/journal 2755 root root -" in lines
    assert "d /var/roothome 0700 root root -" in lines
    assert "L /var/run - - - - /run" in lines
    assert "L+ /var/lib/dpkg - - - - /usr/lib/sysimage/dpkg" in lines
    assert (tmp_path / "usr/lib/sysimage/dpkg/status").exists()
    assert list((tmp_path / "var").iterdir()) == list((tmp_path / "boot").iterdir()) == []
    assert (tmp_path / "usr/local").readlink() == Path("../var/usrlocal")
    assert (tmp_path / "etc/machine-id").read_text() == ""


def test_a_suite_in_the_middle_of_a_synchronisation_is_named_from_what_apt_says() -> None:
    stale = "E: Failed to fetch http://m.example/debian/dists/{}/main/binary-armhf/Packages.xz  {}\n"
    output = stale.format("trixie-updates", "File has unexpected size (720 != 1108). Mirror sync in progress?")
    output += stale.format("trixie-security", "Hash Sum mismatch") + stale.format("trixie", "404  Not Found")
    assert find_stale_suites(output) == ("trixie-security", "trixie-updates")
