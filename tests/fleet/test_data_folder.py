"""The data folder: nobody else reads what the server writes into it."""

import os
import stat
from pathlib import Path

import pytest

from osbuild.fleet.data_folder import open_data_folder
from osbuild.fleet.database import Database
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from osbuild.shared.errors import Error
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import start_server

PUBLIC = {"server-ca.crt", "device-ca.crt", "server.crt"}


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):o}"


def test_files_in_a_folder_that_others_can_read_are_private(tmp_path: Path) -> None:
    """The folder was created before, with an old database that others can read."""
    create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    data = tmp_path / "fleet"
    data.mkdir()
    data.chmod(0o755)
    (data / "fleet.db").touch(0o644)
    (data / "fleet.db").chmod(0o644)
    before = os.umask(0o022)
    try:
        server = start_server(data)
    finally:
        os.umask(before)
    try:
        make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.0.0")
        server.publish(tmp_path / "one.raucb")
        modes = {path.relative_to(data): mode_of(path) for path in data.rglob("*") if path.name not in PUBLIC}
        expected = {path: "700" if (data / path).is_dir() else "600" for path in modes}
        assert modes == expected
        assert {Path("fleet.db"), Path("fleet.db-wal"), Path("fleet.db-shm"), Path("files")} <= modes.keys()
    finally:
        server.process.terminate()
        _, errors = server.process.communicate(timeout=60)
    assert server.process.returncode == 0, errors


def test_a_link_is_not_a_database(tmp_path: Path) -> None:
    target = tmp_path / "other.db"
    target.touch(0o644)
    target.chmod(0o644)
    (tmp_path / "fleet.db").symlink_to(target)
    with pytest.raises(Error, match="not a regular file"):
        Database(tmp_path / "fleet.db")
    assert (mode_of(target), target.read_bytes()) == ("644", b"")


@pytest.mark.parametrize(("mode", "warned"), [(0o755, True), (0o701, True), (0o750, False), (0o700, False)])
def test_a_folder_that_others_can_read_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: int, warned: bool
) -> None:
    tmp_path.chmod(mode)
    open_data_folder(tmp_path).close()
    assert ("chmod o-rwx" in " ".join(capsys.readouterr().err.split())) == warned
