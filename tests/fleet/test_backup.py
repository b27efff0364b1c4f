"""Backups of a data folder while its server runs, and servers that start from them."""

import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from osbuild.cli import cli
from osbuild.cli.fleet_connection import format_time
from osbuild.fleet.backup import restore_backup, write_backup
from osbuild.keys.key_folder import load_keys
from osbuild.shared.errors import Error
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server, start_server

ARTIFACTS = f"{BASE}/till-1/softwaremodules/1/artifacts"

pytestmark = pytest.mark.sqlite


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    with running_server(tmp_path) as server:
        yield server


def run(*arguments: object) -> str:
    """Run a command, and return what it prints on standard error."""
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(cli, words, catch_exceptions=False, standalone_mode=False).stderr


def test_a_server_that_was_restored_knows_devices_bundles_and_people(server: RunningServer, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
    archive, data = tmp_path / "backup.tar", tmp_path / "restored"
    with server.enrol("till-1", create_token(server), tmp_path):
        action = server.order_update("till-1", tmp_path / "one.raucb")
    run("serve", "backup", "--data", server.data, archive)
    assert archive.stat().st_mode & 0o777 == 0o600
    with server.enrol("till-2", create_token(server), tmp_path):  # after the backup
        pass
    run("serve", "--data", data, "restore", archive)
    assert data.stat().st_mode & 0o777 == 0o700
    restored = start_server(data, keys=tmp_path / "keys")
    try:
        restored.token = server.token
        assert restored.actions("till-1") == [(action, "running")] and restored.actions("till-2") == []
        with restored.client("till-1", tmp_path) as device:  # its certificate, and that of the server, are as before
            update = device.get(f"{BASE}/till-1/deploymentBase/{action}").json()
            (artifact,) = update["deployment"]["chunks"][0]["artifacts"]
            assert device.get(artifact["_links"]["download"]["href"]).content == (tmp_path / "one.raucb").read_bytes()
    finally:
        restored.process.terminate()
        assert restored.process.wait(30) == 0


def test_a_server_without_the_files_of_bundles_says_so_and_works_again_when_they_are_published(
    server: RunningServer, tmp_path: Path
) -> None:
    bundle, archive, data = tmp_path / "one.raucb", tmp_path / "backup.tar", tmp_path / "restored"
    make_bundle(bundle, load_keys(tmp_path / "keys"), "1.1.0")
    with server.enrol("till-1", create_token(server), tmp_path):
        action = server.order_update("till-1", bundle)
    server.order("/rollouts", {"name": "winter", "bundle": 1, "groups": [{}]})
    run("serve", "backup", "--data", server.data, "--without-bundles", archive)
    with tarfile.open(archive) as tar, tar.extractfile("backup.json") as index:  # type: ignore[union-attr]
        written = json.loads(index.read())["created"]
    notes = run("serve", "restore", "--data", data, archive)
    assert "bundle 1 (edge-server 1.1.0) is missing: publish the same file again, one.raucb" in notes
    assert f"end again what you ended since {format_time(written)} UTC" in notes
    command = [sys.executable, "-m", "osbuild", "serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    environ = {**os.environ, "EDGE_OSBUILD_KEYS": str(tmp_path / "keys")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stderr is not None
        warning, serving = process.stderr.readline(), process.stderr.readline()
        assert "the bundle 1 (edge-server 1.1.0 for edge-x86_64, one.raucb) is missing: publish the same" in warning
        restored = RunningServer(f"https://127.0.0.1:{serving.partition('127.0.0.1:')[2].partition(',')[0]}",
                                 data, server.token, process)  # fmt: skip
        check_lost_bundle(restored, action, tmp_path)
        assert restored.publish(bundle) == 1
        with restored.client("till-1", tmp_path) as device, restored.people() as people:
            assert device.get(f"{ARTIFACTS}/one.raucb").content == bundle.read_bytes()
            assert people.get("/bundles").json()[0]["missing"] is False
            assert people.post("/rollouts/winter/start").status_code == 200
            events = [(entry["event"], entry["details"]) for entry in people.get("/audit").json()]
        assert ("backup restored", {"backup": "backup.tar", "written": written, "missing_bundles": 1}) in events
        assert "is missing on the server" not in restored.page_text("/bundles")
        process.terminate()
        assert "Traceback" not in process.communicate()[1]


def check_lost_bundle(server: RunningServer, action: int, folder: Path) -> None:
    """Check that devices wait for a bundle whose file is missing, and people are told."""
    with server.client("till-1", folder) as device, server.people() as people:
        for headers in ({}, {"range": "bytes=0-99"}):
            answer = device.get(f"{ARTIFACTS}/one.raucb", headers=headers)
            assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert device.get(f"{BASE}/till-1/deploymentBase/{action}").status_code == 200
        assert people.get("/bundles").json()[0]["missing"] is True
        order = {"name": "spring", "bundle": 1, "groups": [{}]}
        for answer in (
            people.post("/devices/till-1/actions", json={"bundle": 1}), people.post("/rollouts", json=order),
            people.post("/rollouts/preview", json=order), people.post("/rollouts/winter/start"),
        ):  # fmt: skip
            assert answer.status_code == 409 and "publish it again" in answer.json()["message"]
    assert "The file one.raucb is missing on the server" in server.page_text("/bundles")
    assert "publish it again" in server.page_text("/rollouts/new?bundle=1")


def test_a_backup_is_not_restored_over_anything(server: RunningServer, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar"
    write_backup(server.data, archive, bundles=True)
    with pytest.raises(Error, match="an update server uses this data folder"):
        restore_backup(archive, server.data)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").touch()
    with pytest.raises(Error, match="new or empty folder"):
        restore_backup(archive, tmp_path / "other")
    (tmp_path / "empty").mkdir()
    restore_backup(archive, tmp_path / "empty")
    assert (tmp_path / "empty/tls/device-ca.key").read_bytes() == (server.data / "tls/device-ca.key").read_bytes()


def test_an_older_backup_is_only_replaced_with_force(server: RunningServer, tmp_path: Path) -> None:
    archive = tmp_path / "backup.tar"
    archive.write_bytes(b"older")
    with pytest.raises(Error, match="this file exists") as caught:
        run("serve", "backup", "--data", server.data, archive)
    assert "--force" in str(caught.value.hint) and archive.read_bytes() == b"older"
    run("serve", "backup", "--data", server.data, "--force", archive)
    restore_backup(archive, tmp_path / "restored")


def test_a_damaged_or_foreign_archive_leaves_nothing(server: RunningServer, tmp_path: Path) -> None:
    archive, target = tmp_path / "backup.tar", tmp_path / "restored"
    write_backup(server.data, archive, bundles=True)
    whole = archive.read_bytes()
    with tarfile.open(archive) as tar:
        position = tar.getmember("fleet.db").offset_data + 5000
    changed = bytearray(whole)
    changed[position] ^= 1
    for content in (b"", b"x" * 2000, whole[: len(whole) // 2], bytes(changed)):
        archive.write_bytes(content)
        with pytest.raises(Error, match="not a whole backup"):
            restore_backup(archive, target)
        assert not target.exists() and list(tmp_path.glob(".edge-osbuild-*")) == []
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "keys", "../keys")
    with pytest.raises(Error, match="not a whole backup"):
        restore_backup(archive, target)


def test_a_backup_without_bundles_or_without_a_database(tmp_path: Path) -> None:
    with pytest.raises(Error, match="no database in this data folder") as caught:
        write_backup(tmp_path, tmp_path / "backup.tar", bundles=True)
    assert "pg_dump" in str(caught.value.hint)
    assert not (tmp_path / "backup.tar").exists()


def test_bundles_can_be_left_out_and_a_missing_one_is_an_error(server: RunningServer, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
    server.publish(tmp_path / "one.raucb")
    archive = tmp_path / "backup.tar"
    write_backup(server.data, archive, bundles=False)
    with tarfile.open(archive) as tar:
        assert [name for name in tar.getnames() if name.startswith("files")] == []
    with sqlite3.connect(server.data / "fleet.db") as connection:
        (sha256,) = connection.execute("SELECT sha256 FROM bundles").fetchone()
    (server.data / "files" / sha256).unlink()
    before = archive.read_bytes()
    with pytest.raises(Error, match="is missing"):
        write_backup(server.data, archive, bundles=True)
    assert archive.read_bytes() == before
