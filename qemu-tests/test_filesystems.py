"""The checks of the file systems of a replayed disk, on file systems that are damaged here. Nothing is booted."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.filesystems import check_data, check_fat, filesystem_tools, verify_root

from osbuild.host.run import CommandError
from osbuild.sandbox.tools_tree import ToolsTree

DOCUMENT = "/lib/state.json"


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    return filesystem_tools()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def data(tools: ToolsTree, folder: Path, text: str) -> Path:
    """Make an ext4 file system with one document."""
    image, source = folder / "data.img", folder / "source"
    (source / "lib").mkdir(parents=True)
    (source / "lib/state.json").write_text(text)
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    tools.run_command(["mke2fs", "-q", "-t", "ext4", "-d", source, image], [folder])
    return image


def test_a_good_file_system_is_good_and_unchanged(tools: ToolsTree, tmp_path: Path) -> None:
    image = data(tools, tmp_path, '{"stage": "installed"}')
    before = digest(image)
    check = check_data(tools, image, [DOCUMENT, "/lib/other.json"])
    assert (check.problem, check.recovered) == (None, False)
    assert check.documents == {DOCUMENT: {"stage": "installed"}, "/lib/other.json": None}
    assert digest(image) == before


def test_a_journal_is_replayed_and_the_replay_is_undone(tools: ToolsTree, tmp_path: Path) -> None:
    image = data(tools, tmp_path, "{}")
    # A committed transaction in the journal (debugfs(8), "jw"), which writes a block with its present contents.
    script = (
        f"dd if={image} of={tmp_path}/block bs=1024 skip=8 count=1 2> /dev/null; "
        f"printf 'jo\njw -b 8 {tmp_path}/block\njc\n' | debugfs -w {image}"
    )
    tools.run_command(["sh", "-c", script], [tmp_path])
    before = digest(image)
    check = check_data(tools, image, [DOCUMENT])
    assert (check.recovered, check.problem, check.documents) == (True, None, {DOCUMENT: {}})
    assert digest(image) == before
    assert check_data(tools, image, [DOCUMENT]).recovered, "the journal is still to be replayed"


def test_a_torn_superblock_loses_no_data(tools: ToolsTree, tmp_path: Path) -> None:
    """The second sector is older than the first, so that the checksum is wrong. A boot repairs it too."""
    image = data(tools, tmp_path, '{"a": 1}')
    with image.open("r+b") as file:
        file.seek(1024 + 512)
        file.write(b"torn")
    before = digest(image)
    check = check_data(tools, image, [DOCUMENT])
    assert (check.problem, check.documents) == (None, {DOCUMENT: {"a": 1}})
    assert digest(image) == before
    script = f"e2fsck -p {image}; [ $? -ge 4 ] && e2fsck -y {image}; [ $? -lt 4 ]"  # like mount-state
    tools.run_command(["sh", "-c", script], [tmp_path])
    assert check_data(tools, image, [DOCUMENT]).documents == {DOCUMENT: {"a": 1}}


def test_a_torn_document_is_detected(tools: ToolsTree, tmp_path: Path) -> None:
    check = check_data(tools, data(tools, tmp_path, '{"stage": "insta'), [DOCUMENT])
    assert check.problem and "state.json is torn" in check.problem


def test_damage_that_needs_confirmation_is_detected_and_not_repaired(tools: ToolsTree, tmp_path: Path) -> None:
    image = data(tools, tmp_path, "{}")
    tools.run_command(["debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", image], [tmp_path])
    before = digest(image)
    check = check_data(tools, image)
    assert check.problem and "status 4" in check.problem
    assert digest(image) == before


def make_fat(tools: ToolsTree, folder: Path) -> Path:
    image = folder / "esp.img"
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    tools.run_command(["mkfs.vfat", "-F", "32", "-s", "1", image], [folder])
    return image


@pytest.mark.parametrize(
    ("place", "data", "good"),
    [
        (0x41, b"\x01", True),  # mounted during a power cut
        (512 + 488, b"\x07\0\0\0", True),  # number of free clusters
        (32 * 512 + 5000 * 4, b"\xff\xff\xff\x0f", True),  # the first table is newer than the second
        (0, bytes(512), False),
    ],
)
def test_fat_is_good_unless_files_are_damaged(
    tools: ToolsTree, tmp_path: Path, place: int, data: bytes, good: bool
) -> None:
    image = make_fat(tools, tmp_path)
    with image.open("r+b") as file:
        file.seek(place)
        file.write(data)
    before = digest(image)
    check = check_fat(tools, image)
    assert (check.files == () and check.problems == ()) is good, check
    assert digest(image) == before


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(9 * 4096)
        file.write(b"?")


@pytest.mark.parametrize(("hurt", "good"), [(lambda path: None, True), (damage, False)])
def test_only_an_intact_root_passes_verification(
    tools: ToolsTree, tmp_path: Path, hurt: Callable[[Path], None], good: bool
) -> None:
    root, tree = tmp_path / "root", tmp_path / "tree"
    root.write_bytes(b"block" * 4096 * 8)
    output = tools.run_command(["veritysetup", "format", root, tree], [tmp_path])
    root_hash = next(line.split()[-1] for line in output.splitlines() if line.startswith("Root hash:"))
    hurt(root)
    if good:
        verify_root(tools, root, tree, root_hash)
    else:
        with pytest.raises(CommandError):
            verify_root(tools, root, tree, root_hash)
