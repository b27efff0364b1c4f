"""The bundle's hook, run as RAUC runs it: a program with an environment, on a folder that stands for the partition."""

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from osbuild.bundle import blocks, content, hook, source
from tests.support.builds import hash_tree, make_build, random_blocks


@pytest.fixture
def partition(tmp_path: Path) -> Path:
    (tmp_path / "efi/EFI/Linux").mkdir(parents=True)
    return tmp_path / "efi"


def bundle(path: Path, kernel: bytes | None = None, kind: str = "efi") -> Path:
    """A bundle's content, as it is mounted on a device, and beside it the build."""
    build = make_build(path / "build", kernel=kernel, kind=kind)
    (path / "content").mkdir()
    content.write_content(source.read_build(build), path / "content")
    return path


def run(
    build: Path, partition: Path, slot: str, *, largest: int | None = None, kind: str = "slot-install"
) -> subprocess.CompletedProcess[str]:
    env = {
        "PATH": os.environ["PATH"], "RAUC_SLOT_NAME": "test", "RAUC_BUNDLE_MOUNT_POINT": str(build / "content"),
        "RAUC_SLOT_DEVICE": str(partition), "RAUC_SLOT_BOOTNAME": slot,
    }  # fmt: skip

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest or -1, -1))

    command = [sys.executable, "-I", str(build / "content/hook"), kind]
    return subprocess.run(command, env=env, capture_output=True, text=True, preexec_fn=limit)


def names(partition: Path) -> list[str]:
    return sorted(path.name for path in partition.rglob("*") if path.is_file())


@pytest.mark.parametrize("slot", ["a", "b"])
def test_one_bundle_makes_the_boot_file_of_either_slot_and_boots_none(
    tmp_path: Path, partition: Path, slot: str
) -> None:
    build = bundle(tmp_path / "n")
    result = run(build, partition, slot)
    assert (result.returncode, result.stderr) == (0, "")
    assert names(partition) == [f"edge-{slot}.efi.staged"]
    staged = partition / f"EFI/Linux/edge-{slot}.efi.staged"
    assert staged.read_bytes() == (build / f"build/edge-{slot}.efi").read_bytes()


def test_u_boot_files_are_at_the_top_of_the_partition(tmp_path: Path, partition: Path) -> None:
    build = bundle(tmp_path / "n", kind="img")
    assert run(build, partition, "b").returncode == 0
    assert (partition / "edge-b.img.staged").read_bytes() == (build / "build/edge-b.img").read_bytes()


def test_only_blocks_that_are_not_there_are_read_from_the_bundle(tmp_path: Path, partition: Path) -> None:
    kernel = random_blocks("kernel", 20)
    old, new = bundle(tmp_path / "n", kernel), bundle(tmp_path / "m", kernel[: 19 * 4096] + random_blocks("new", 1))
    (partition / "EFI/Linux/edge-1-a+2-1.efi").write_bytes((old / "build/edge-a.efi").read_bytes())
    result = run(new, partition, "b")
    assert result.stdout == "boot image edge-b.efi: 21 blocks, 2 of them from the bundle\n"
    assert (partition / "EFI/Linux/edge-b.efi.staged").read_bytes() == (new / "build/edge-b.efi").read_bytes()
    for name in ("staged", "spare"):  # the boot loader's backend makes one of the other, as RAUC begins
        (partition / "EFI/Linux/edge-b.efi.staged").rename(partition / f"EFI/Linux/edge-b.efi.{name}")
        again = run(new, partition, "b")
        assert again.stdout == "boot image edge-b.efi: 21 blocks, 0 of them from the bundle\n"
        assert names(partition) == ["edge-1-a+2-1.efi", "edge-b.efi.staged"]


def test_what_booted_the_slot_is_gone_and_what_boots_the_other_is_untouched(tmp_path: Path, partition: Path) -> None:
    folder = partition / "EFI/Linux"
    kept = {
        "edge-3-a.efi": b"running", "edge-a.efi": b"not ours", "edge-3-bb.efi": b"not ours",
        "edge-b-3.efi": b"not ours", "other.efi": b"not ours",
    }  # fmt: skip
    lost = (
        "edge-b.efi", "edge-2-b.efi", "edge-4-b+3.efi", "edge-12-b+1-2.efi", "EDGE-5-B.EFI", "edge-b.efi.partial",
        "edge-b.efi.staged",
    )  # fmt: skip
    for name in (*kept, *lost):
        (folder / name).write_bytes(kept.get(name, b"old"))
    build = bundle(tmp_path / "n")
    assert run(build, partition, "b").returncode == 0
    assert names(partition) == sorted([*kept, "edge-b.efi.staged"])
    assert {name: (folder / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("second", ["edge-2-b+3.efi", "edge-2-b.efi", "edge-b.efi.partial", "edge-b.efi.spare"])
def test_names_that_a_power_cut_left_for_one_file_go_together(tmp_path: Path, partition: Path, second: str) -> None:
    """Freeing its blocks while it is read, or replacing it later, would destroy what has them by then."""
    build, folder = bundle(tmp_path / "n"), partition / "EFI/Linux"
    staged = folder / "edge-b.efi.staged"
    staged.write_bytes((build / "build/edge-b.efi").read_bytes())
    os.link(staged, folder / second)
    result = run(build, partition, "b")
    assert result.stdout == "boot image edge-b.efi: 22 blocks, 22 of them from the bundle\n", (
        "what is freed is not read"
    )
    assert names(partition) == ["edge-b.efi.staged"]
    assert staged.stat().st_nlink == 1


def test_a_block_that_is_damaged_on_the_partition_is_read_from_the_bundle(tmp_path: Path, partition: Path) -> None:
    build = bundle(tmp_path / "n")
    data = bytearray((build / "build/edge-a.efi").read_bytes())
    data[3 * 4096 + 17] ^= 1
    (partition / "EFI/Linux/edge-7-a.efi").write_bytes(data)
    result = run(build, partition, "b")
    assert "2 of them from the bundle" in result.stdout
    assert (partition / "EFI/Linux/edge-b.efi.staged").read_bytes() == (build / "build/edge-b.efi").read_bytes()


def test_a_bundle_whose_blocks_are_not_those_it_says_leaves_nothing(tmp_path: Path, partition: Path) -> None:
    build = bundle(tmp_path / "n")
    with (build / "content/boot.blocks").open("r+b") as file:
        file.seek(5 * 4096)
        file.write(b"x")
    result = run(build, partition, "b")
    assert result.returncode == 1
    assert "does not have the sha256" in result.stderr
    assert names(partition) == []


def test_a_full_partition_is_said_with_what_is_needed_and_leaves_the_other_slot(
    tmp_path: Path, partition: Path
) -> None:
    build = bundle(tmp_path / "n")
    (partition / "EFI/Linux/edge-a.efi").write_bytes(b"running")
    result = run(build, partition, "b", largest=30000)
    size = (build / "build/edge-b.efi").stat().st_size
    assert result.returncode == 1
    assert f"({size} bytes are needed," in result.stderr
    assert names(partition) == ["edge-a.efi"]


def test_a_slot_that_is_not_in_the_bundle_and_a_partition_that_is_not_mounted_are_refused(
    tmp_path: Path, partition: Path
) -> None:
    build = bundle(tmp_path / "n")
    for slot, place, message in (
        ("c", partition, "no boot image for slot `c`, only for a, b"),
        ("b", tmp_path / "empty", "check that the ESP is mounted"),
    ):
        result = run(build, place, slot)
        assert result.returncode == 1
        assert message in result.stderr


ROOT = random_blocks("root", 1000)
NEW = random_blocks("new", 1) + ROOT[: 700 * 4096] + random_blocks("newer", 2) + ROOT[702 * 4096 :]


def trees(path: Path, **found: bytes) -> Path:
    """The partitions of slots; the one of root b, which is about to be written."""
    path.mkdir()
    for slot, tree in found.items():
        (path / f"root-{slot}-verity").write_bytes(tree + bytes(3 * 4096))  # a partition has room behind it
    return path / "root-b"


def index(build: Path, device: Path) -> tuple[str, bytes]:
    """What the hook says, and the index that it has made."""
    result = run(build, device, "b", kind="slot-pre-install")
    assert (result.returncode, result.stderr) == (0, "")
    output, other = result.stdout.splitlines()
    assert other.startswith("no index of a slot's root"), "there is no such slot here"
    return output + "\n", (build / hook.INDEX).read_bytes()


def plain(data: bytes) -> bytes:
    """RAUC's index of a root."""
    return b"".join(hashlib.sha256(data[at : at + 4096]).digest() for at in range(0, len(data), 4096))


def rooted(path: Path, root: bytes) -> Path:
    """A bundle's content with a root and its real hash tree."""
    tree, roothash = hash_tree(root)
    build = make_build(path / "build", root=root, metadata={"roothash": roothash}, tree=tree)
    (path / "content").mkdir()
    content.write_content(source.read_build(build), path / "content")
    return path


def test_the_index_of_a_root_comes_out_of_its_tree_and_what_the_slots_have_of_that(tmp_path: Path) -> None:
    build, (old, _) = (
        rooted(tmp_path / "m", NEW[4096:] + random_blocks("last", 1)),
        hash_tree(NEW[4096:] + random_blocks("old", 1)),
    )
    assert "hooks=pre-install" in (build / "content/manifest.raucm").read_text()
    message, index_data = index(build, trees(tmp_path / "none"))
    assert index_data == plain(NEW[4096:] + random_blocks("last", 1))
    assert message == "index of the root: 10 blocks of its hash tree, 10 of them from the bundle\n"
    # One block of the root is another one: the tree's superblock, its top, and the block above that one.
    assert index(build, trees(tmp_path / "a", a=old)) == (message.replace("10 of", "3 of"), index_data)
    # Any slot will do, and none that is damaged.
    damaged = bytearray(old)
    damaged[3 * 4096] ^= 1
    assert index(build, trees(tmp_path / "b", a=bytes(damaged), b=b"")) == (
        message.replace("10 of", "4 of"),
        index_data,
    )
    assert index(build, trees(tmp_path / "ab", a=bytes(damaged), b=old)) == (
        message.replace("10 of", "3 of"),
        index_data,
    )


def test_no_index_is_made_of_a_tree_that_is_damaged_or_of_another_kind(tmp_path: Path) -> None:
    build = rooted(tmp_path / "m", ROOT)
    good = (build / "content/verity.img").read_bytes()
    (build / hook.INDEX).write_bytes(b"of before")
    salted, _ = hash_tree(ROOT, b"salt")
    for tree, message in (
        (good[: 4 * 4096] + b"x" + good[4 * 4096 + 1 :], "damaged"),
        (good[: 5 * 4096], "damaged"),
        (salted, "an unsupported format"),
        (bytes(4096), "an unsupported format"),
        (b"", "no hash tree"),
    ):
        (build / "content/verity.img").unlink()
        (build / "content/verity.img").write_bytes(tree)
        result = run(build, trees(tmp_path / f"slots-{len(list(tmp_path.iterdir()))}"), "b", kind="slot-pre-install")
        assert result.returncode == 1 and message in result.stderr, message
        assert not (build / hook.INDEX).exists(), "no older one is taken for it"


def test_rauc_gets_the_index_of_the_other_root_where_it_has_none(tmp_path: Path) -> None:
    tree, _ = hash_tree(ROOT)
    device, data = trees(tmp_path / "slots", a=tree, b=b"whatever"), tmp_path / "rauc"
    index_path = data / "slot.root.0/hash-unknown/block-hash-index"
    assert hook.index_other_slot(device, "root.1", data) == "index of the other root: 1000 blocks"
    assert index_path.read_bytes() == plain(ROOT)
    index_path.unlink()
    (data / "slot.root.0/hash-1234").mkdir()  # RAUC has installed it, and knows
    assert hook.index_other_slot(device, "root.1", data) == "" and not index_path.exists()
    assert hook.index_other_slot(trees(tmp_path / "none"), "root.1", tmp_path / "new") == ""
    with pytest.raises(hook.HookError):
        hook.index_other_slot(trees(tmp_path / "salted", a=hash_tree(ROOT, b"salt")[0]), "root.1", tmp_path / "new")


@pytest.mark.parametrize(
    ("known", "there", "expected", "message"),
    [
        (b"", bytes(len(NEW)), plain(NEW[:4096]), "0 blocks known, 0 of 1001 new"),
        (b"", NEW[: 300 * 4096] + bytes(701 * 4096), plain(NEW[: 300 * 4096]), "0 blocks known, 300 of 1001 new"),
        (ROOT, ROOT, plain(ROOT), "1000 blocks known, 0 of 1001 new"),
        (ROOT, NEW, plain(NEW), "1000 blocks known, 1001 of 1001 new"),
        (
            ROOT, NEW[: 300 * 4096] + ROOT[300 * 4096 :], plain(NEW[: 300 * 4096] + ROOT[300 * 4096 :]),
            "1000 blocks known, 300 of 1001 new",
        ),
    ],
    ids=["empty", "interrupted when empty", "installed", "all but noted", "interrupted over another"],
)  # fmt: skip
def test_rauc_gets_the_index_of_what_the_slot_that_it_writes_has(
    tmp_path: Path, known: bytes, there: bytes, expected: bytes, message: str
) -> None:
    device, target = tmp_path / "root-b", tmp_path / "slot.root.1/hash-unknown/block-hash-index"
    device.write_bytes(there + bytes(50 * 4096))
    if known:
        target.parent.mkdir(parents=True)
        target.write_bytes(plain(known))
    assert message in hook.index_target_slot(device, "root.1", tmp_path, plain(NEW))
    assert target.read_bytes() == expected
    hook.index_target_slot(device, "root.1", tmp_path, plain(NEW))
    assert target.read_bytes() == expected, "another attempt finds the same"
    if known:
        target.unlink()  # as RAUC does when an installation fails
        (tmp_path / "root-b-verity").write_bytes(hash_tree(known)[0])
        assert message in hook.index_target_slot(device, "root.1", tmp_path, plain(NEW))
        assert target.read_bytes() == expected
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_tree_with_a_salt_has_no_index_in_it_and_is_not_asked_for_one(tmp_path: Path) -> None:
    for name, salt, right, expected in (
        ("plain", b"", True, True), ("salted", b"salt", True, False), ("of another root", b"", False, False),
    ):  # fmt: skip
        tree, roothash = hash_tree(ROOT, salt)
        metadata = {"roothash": roothash if right else "0" * 64}
        build = source.read_build(make_build(tmp_path / name, root=ROOT, metadata=metadata, tree=tree))
        assert build.indexed is expected, name
        assert ("pre-install" in content.render_manifest(build)) is expected, name


def test_the_hook_needs_nothing_but_the_standard_library() -> None:
    command = [sys.executable, "-I", "-S", hook.__file__, "what"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "unknown hook: what\n")


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [([], []), ([0, 1, 2], [[0, 3]]), ([0, 1, 5, 6, 2], [[0, 2], [5, 2], [2, 1]]), ([4, 4], [[4, 1], [4, 1]])],
)
def test_runs_of_blocks(numbers: list[int], expected: list[list[int]]) -> None:
    assert blocks.group_runs(numbers) == expected
