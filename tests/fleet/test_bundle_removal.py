"""Bundles that are deleted, and files to which nothing refers."""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from osbuild.fleet.authorities import load_authority
from osbuild.fleet.bundle_removal import remove_unneeded_files
from osbuild.fleet.bundles import FileStore, NewBundle, StoredFile, add_bundle
from osbuild.fleet.database import Database
from osbuild.fleet.service import Service
from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def test_a_deleted_bundle_has_no_file_but_stays_in_the_history(server: RunningServer, tmp_path: Path) -> None:
    bundle = tmp_path / "one.raucb"
    content = make_bundle(bundle, load_keys(server.data.parent / "keys"), "1.0.0")
    with server.enrol("shop-1", create_token(server), tmp_path) as device, server.people() as people:
        action = server.order_update("shop-1", bundle)
        number = people.get("/bundles").json()[0]["id"]
        (file,) = (server.data / "files").iterdir()
        refused = people.delete(f"/bundles/{number}")
        assert (refused.status_code, refused.json()["code"]) == (409, "bundle-in-use") and file.exists()
        success = {"status": {"execution": "closed", "result": {"finished": "success"}}}
        assert device.post(f"{BASE}/shop-1/deploymentBase/{action}/feedback", json=success).status_code == 200
        assert people.delete(f"/bundles/{number}").status_code == 200
        assert not file.exists() and people.get("/bundles").json() == []
        assert people.delete(f"/bundles/{number}").status_code == 404
        assert people.post("/devices/shop-1/actions", json={"bundle": number}).status_code == 404
        rollout = {"name": "late", "bundle": number, "groups": [{"percent": 100}]}
        assert people.post("/rollouts", json=rollout).status_code == 404
        (shown,) = people.get("/devices/shop-1").json()["actions"]
        assert (shown["bundle"], shown["state"]) == ("edge-server 1.0.0", "finished")
        assert device.get(f"{BASE}/shop-1/installedBase/{action}").status_code == 200
        entry = people.get("/audit").json()[0]
        assert (entry["event"], entry["subject"]) == ("bundle deleted", "edge-server 1.0.0")
        assert server.publish(bundle) == number, "the same contents are offered again"
        assert file.read_bytes() == content
        assert server.order_update("shop-1", bundle) > action


def test_files_of_interrupted_and_refused_uploads_are_deleted_when_they_are_old(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files")
    digests = [letter * 64 for letter in "abcd"]
    names = [*digests, ".upload-x", ".new-1", ".upload-y", "README"]
    for name in names:
        store.path(name).write_text("x")
    for name in set(names) - {".upload-y", "d" * 64}:
        os.utime(store.path(name), (1, 1))
    database = Database(tmp_path / "fleet.db")
    try:
        for version in ("1", "2"):
            stored = StoredFile(1, "ab"[int(version) - 1] * 64, "", "")
            named = NewBundle("edge", version, "edge", "one.raucb")
            database.begin_change(partial(add_bundle, named=named, stored=stored, now=0)).result()
        database.begin_change(lambda c: c.exec_driver_sql("UPDATE bundles SET deleted = 1 WHERE id = 2")).result()
        service = Service(database, store, load_authority(tmp_path, "device-ca"), tmp_path / "keyring.pem")
        asyncio.run(remove_unneeded_files(service))
    finally:
        database.close()
    assert {path.name for path in store.folder.iterdir()} == {"a" * 64, "d" * 64, ".upload-y", "README"}
