"""Locks between processes that run tests."""

from pathlib import Path

from support.exclusive import hold_lock

from osbuild.shared.locks import is_locked


def test_a_lock_is_of_one_holder_and_its_folder_is_created(tmp_path: Path) -> None:
    folder = tmp_path / "build/locks"
    with hold_lock("image", folder=folder), hold_lock("other", folder=folder):
        assert is_locked(folder / "image.lock")
    assert not is_locked(folder / "image.lock")
