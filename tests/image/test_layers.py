"""What an image's second layer is made of. That the two make the right image is seen in qemu-tests/test_layers.py."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from osbuild.image.layers import list_files, write_changes
from osbuild.shared.errors import Error


def tree(folder: Path) -> Path:
    for name in ("a/deep/one", "a/two", "b/three", "c/four"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1000, 1000))
    return folder


def changes(before: Path, after: Path) -> list[str]:
    output = after.with_suffix(".tar")
    write_changes(list_files(before), list_files(after), after, output)
    with tarfile.open(output) as archive:
        return archive.getnames()


def test_folders_that_are_the_same_make_no_second_layer(tmp_path: Path) -> None:
    assert changes(tree(tmp_path / "old"), tree(tmp_path / "new")) == []


def test_what_differs_is_in_it_with_the_folders_on_the_way_and_what_is_gone_by_name(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    (new / "a/deep/one").chmod(0o600)
    shutil.rmtree(new / "b")
    (new / "c/four").unlink()
    (new / "c/five").symlink_to("four")
    for name in (".", "c"):
        os.utime(new / name, (1000, 1000))
    assert changes(old, new) == [".", "a", "a/deep", "a/deep/one", "c", "c/five", ".wh.b", "c/.wh.four"]


def test_what_takes_the_place_of_a_folder_needs_no_mark(tmp_path: Path) -> None:
    old, new = tree(tmp_path / "old"), tree(tmp_path / "new")
    shutil.rmtree(new / "a")
    (new / "a").symlink_to("b")
    os.utime(new, (1000, 1000))
    assert changes(old, new) == [".", "a"]


def test_devices_and_sockets_are_refused_in_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Error, match="pipe is not a file"):
        list_files(tmp_path)
