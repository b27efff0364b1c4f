"""The update server as its clients meet it: a process, HTTPS, certificates, bundles signed by OpenSSL."""

import hashlib
import itertools
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from osbuild.cli import cli
from osbuild.fleet.authorities import load_authority
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from osbuild.keys.private_key import generate_key
from osbuild.shared.errors import Error
from tests.support.postgresql import text_of
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server, start_server

DATABASE = "EDGE_TEST_DATABASE"
FEEDBACK = {"id": "1", "time": "now", "status": {"execution": "closed", "result": {"finished": "success"}}}


BOTH = pytest.mark.parametrize("server", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def server(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunningServer]:
    options: tuple[str, ...] = ()
    if getattr(request, "param", "sqlite") == "postgresql":
        monkeypatch.setenv(DATABASE, text_of(request.getfixturevalue("postgresql").create_database()))
        options = ("--database", f"env:{DATABASE}")
    with running_server(tmp_path, *options) as server:
        yield server


@BOTH
def test_a_device_enrols_and_is_known_by_its_certificate_only(server: RunningServer, tmp_path: Path) -> None:
    with server.enrol("device-1", create_token(server), tmp_path) as device:
        assert device.get(f"{BASE}/device-1").json()["config"]["polling"]["sleep"] == "00:05:00"
        assert device.put(f"{BASE}/device-1/configData", json={"data": {"version": "1.0.0"}}).status_code == 200
        assert device.get(f"{BASE}/device-2").status_code == 401, "another device's name"
    with server.anybody() as anybody:
        answer = anybody.get(f"{BASE}/device-1")
        assert (answer.status_code, answer.content) == (401, b"")
    with server.people() as people:
        view = people.get("/devices/device-1").json()
        assert view["attributes"] == {"version": "1.0.0"} and view["address"] == "127.0.0.1" and view["last_seen"]


@BOTH
def test_enrolment_tokens_are_used_up_and_a_name_needs_a_newer_one(server: RunningServer, tmp_path: Path) -> None:
    token = create_token(server, uses=2)
    first = server.enrol("device-1", token, tmp_path)
    with server.enrol("device-1", token, tmp_path) as repeated:
        assert repeated.get(f"{BASE}/device-1").status_code == 200, "the same key again: the first answer was lost"
    other = tmp_path / "other"
    other.mkdir()

    def refused(name: str, token: str) -> str:
        with pytest.raises(AssertionError) as caught:
            server.enrol(name, token, other)
        return str(caught.value)

    assert "with another key" in refused("device-1", token)
    assert "not for a device that is known already" in refused("device-1", create_token(server))
    bound = create_token(server, device="device-1")
    assert "for another device" in refused("device-2", bound)
    assert "unknown" in refused("device-3", token[:-1])
    server.enrol("device-2", token, tmp_path)
    assert "used already" in refused("device-3", token)
    with server.enrol("device-1", bound, other) as again, first:
        assert again.get(f"{BASE}/device-1").status_code == 200
        assert first.get(f"{BASE}/device-1").status_code == 401, "its certificate was replaced"
    with server.people() as people:
        events = [entry["event"] for entry in people.get("/audit").json()]
    assert events.count("enrolment refused") == 5
    assert events.count("device enrolled") == 3, "the repeated one is not recorded again"
    with server.people() as people:
        assert people.delete("/devices/device-1").status_code == 200
        assert people.get("/devices/device-1").json()["decommissioned"] > 0
        assert [device["name"] for device in people.get("/devices").json()] == ["device-2"]
        assert people.post("/devices/device-1/tags", json={"tags": {}}).status_code == 404
    with server.client("device-1", other) as again:
        assert again.get(f"{BASE}/device-1").status_code == 401, "decommissioned"
    database = server.data / "fleet.db"
    assert not database.exists() or token not in database.read_bytes().decode(errors="ignore")


def test_what_was_acknowledged_survives_a_kill(server: RunningServer, tmp_path: Path) -> None:
    with server.enrol("device-1", create_token(server), tmp_path) as device:
        for number in range(20):
            assert device.put(f"{BASE}/device-1/configData", json={"data": {"count": str(number)}}).status_code == 200
    server.process.kill()
    server.process.wait()
    restarted = start_server(server.data)
    server.process, server.url = restarted.process, restarted.url
    with server.people() as people:
        assert people.get("/devices/device-1").json()["attributes"] == {"count": "19"}


def test_people_need_a_token_with_the_right_role(server: RunningServer) -> None:
    with server.anybody() as anybody:
        for header in ({}, {"authorization": "Bearer x"}, {"authorization": f"Basic {server.token}"}):
            assert anybody.get("/api/v1/devices", headers=header).status_code == 401
    with server.people() as people:
        assert people.get("/devices").json() == []
        assert people.get("/devices/none").status_code == 404
        assert people.post("/enrolment-tokens", json={"uses": 1, "typo": 2}).status_code == 400


def test_bundles_that_are_not_signed_are_refused_and_leave_nothing(server: RunningServer, tmp_path: Path) -> None:
    with server.people() as people:
        for content in (b"", b"hsqs", b"hsqs" + bytes(100), b"hsqs" + bytes(92) + (50).to_bytes(8, "big")):
            answer = people.put("/bundles/a.raucb", content=content)
            assert answer.status_code == 422, answer.text
        assert people.get("/bundles").json() == []
    assert list((server.data / "files").iterdir()) == []


@BOTH
def test_a_bundle_is_published_offered_downloaded_in_ranges_and_reported(server: RunningServer, tmp_path: Path) -> None:
    content = make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
    with server.people() as people, server.enrol("device-1", create_token(server), tmp_path) as device:
        answer = people.put("/bundles/one.raucb", content=content)
        assert answer.status_code == 200, answer.text
        bundle = answer.json()
        assert (bundle["name"], bundle["version"], bundle["size"]) == ("edge-server", "1.1.0", len(content))
        assert people.put("/bundles/again.raucb", content=content).json()["id"] == bundle["id"]
        action = people.post("/devices/device-1/actions", json={"bundle": bundle["id"]}).json()["id"]
        poll = device.get(f"{BASE}/device-1").json()["_links"]
        update = device.get(poll["deploymentBase"]["href"]).json()
        assert update["id"] == str(action) and update["deployment"]["update"] == "forced"
        (chunk,) = update["deployment"]["chunks"]
        (artifact,) = chunk["artifacts"]
        assert artifact["hashes"]["sha1"] == hashlib.sha1(content).hexdigest()
        url = artifact["_links"]["download"]["href"]
        assert device.get(url).content == content
        assert device.get(url + ".MD5SUM").text.split() == [artifact["hashes"]["md5"], "one.raucb"]
        middle = device.get(url, headers={"range": "bytes=4096-8191"})
        assert (middle.status_code, middle.content) == (206, content[4096:8192])
        large = device.get(url, headers={"range": "bytes=-1150000"})  # more than one piece
        assert (large.status_code, large.content) == (206, content[-1150000:])
        last = device.get(url, headers={"range": "bytes=-7"})
        assert (last.content, last.headers["content-range"]) == (
            content[-7:], f"bytes {len(content) - 7}-{len(content) - 1}/{len(content)}",
        )  # fmt: skip
        both = device.get(url, headers={"range": "bytes=0-9, 20-29"})
        assert both.status_code == 206 and both.headers["content-type"].startswith("multipart/byteranges")
        for bad in ("bytes=x", f"bytes={len(content)}-", "bytes=0-9,5-20", "bytes=9-1", "bytes=-0", "lines=1-2"):
            refused = device.get(url, headers={"range": bad})
            assert (refused.status_code, refused.headers["content-range"]) == (416, f"bytes */{len(content)}"), bad
        assert device.get(url, headers={"range": "bytes=0-9", "if-range": '"other"'}).status_code == 200
        assert device.get(url, headers={"if-match": '"other"'}).status_code == 412
        feedback = f"{BASE}/device-1/deploymentBase/{action}/feedback"
        assert device.post(feedback, json=FEEDBACK).status_code == 200
        assert device.post(feedback, json=FEEDBACK).status_code == 410
        assert device.get(url).status_code == 404, "there is nothing to install any more"
        assert "installedBase" in device.get(f"{BASE}/device-1").json()["_links"]
        (view,) = people.get("/devices/device-1").json()["actions"]
        assert (view["state"], view["bundle"]) == ("finished", "edge-server 1.1.0")


@BOTH
def test_updates_are_confirmed_by_the_device_or_automatically(server: RunningServer, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
    with server.enrol("device-1", create_token(server), tmp_path) as device:
        action = server.order_update("device-1", tmp_path / "one.raucb", confirm=True)
        base = f"{BASE}/device-1/confirmationBase"
        assert device.get(f"{BASE}/device-1").json()["_links"].keys() == {"confirmationBase", "configData"}
        overview = device.get(base).json()
        assert overview["autoConfirm"]["active"] is False
        asked = device.get(overview["_links"]["confirmationBase"]["href"]).json()
        assert asked["id"] == str(action) and asked["confirmation"]["update"] == "forced"
        feedback = f"{base}/{action}/feedback"
        assert device.post(feedback, json={"confirmation": "maybe"}).status_code == 400
        assert device.post(feedback, json={"confirmation": "denied"}).status_code == 200
        assert server.actions("device-1") == [(action, "waiting for confirmation")]
        assert device.post(f"{base}/activateAutoConfirm", json={}).status_code == 200
        assert device.post(f"{base}/activateAutoConfirm", json={}).status_code == 409
        assert server.actions("device-1") == [(action, "running")]
        assert device.post(feedback, json={"confirmation": "confirmed"}).status_code == 404, "it does not wait any more"
        assert device.get(f"{base}/{action}").status_code == 404
        assert device.post(f"{BASE}/device-1/deploymentBase/{action}/feedback", json=FEEDBACK).status_code == 200
        assert device.post(feedback, json={"confirmation": "confirmed"}).status_code == 410
        second = server.order_update("device-1", tmp_path / "one.raucb", confirm=True)
        assert server.actions("device-1")[0] == (second, "running"), "confirmed automatically"
        assert device.post(f"{base}/deactivateAutoConfirm", json={}).status_code == 200


@BOTH
def test_a_device_says_what_it_has_installed_otherwise(server: RunningServer, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
    server.publish(tmp_path / "one.raucb")
    with server.enrol("device-1", create_token(server), tmp_path) as device:
        installed = f"{BASE}/device-1/installedBase"
        assert device.put(installed, json={"name": "edge-server", "version": "9"}).status_code == 404
        assert device.put(installed, json={"name": "edge-server"}).status_code == 400
        statuses = [device.put(installed, json={"name": "edge-server", "version": "1.1.0"}).status_code for _ in "12"]
        assert statuses == [201, 200]
        link = device.get(f"{BASE}/device-1").json()["_links"]["installedBase"]["href"]
        assert device.get(link).json()["deployment"]["chunks"][0]["version"] == "1.1.0"


@pytest.mark.parametrize("damage", ["contents", "tree", "signature", "length", "other keys"])
def test_a_damaged_bundle_or_one_of_others_is_refused(server: RunningServer, tmp_path: Path, damage: str) -> None:
    keys = load_keys(tmp_path / "keys")
    if damage == "other keys":
        keys = create_keys(tmp_path / "others", "Others", PrivateKeyAccess())
    content = bytearray(make_bundle(tmp_path / "one.raucb", keys, "1.1.0"))
    length = int.from_bytes(content[-8:], "big")
    position = {"contents": 5000, "tree": 301 * 4096, "signature": -8 - length // 2, "length": -1, "other keys": 0}
    if damage != "other keys":
        content[position[damage]] ^= 1
    with server.people() as people:
        answer = people.put("/bundles/one.raucb", content=bytes(content))
        assert answer.status_code == 422, answer.text
        assert people.get("/bundles").json() == []


def test_a_certificate_is_renewed_and_only_the_last_two_are_accepted(server: RunningServer, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    clients = [server.enrol("device-1", create_token(server), folders[0])]
    for before, folder in itertools.pairwise(folders):
        clients.append(server.renew("device-1", before, folder))
    accepted = [client.get(f"{BASE}/device-1").status_code for client in clients]
    assert accepted == [401, 200, 200]
    with server.people() as people:
        renewals = [entry for entry in people.get("/audit").json() if entry["event"] == "certificate renewed"]
        assert {(entry["who"], entry["address"]) for entry in renewals} == {("device device-1", "127.0.0.1")}
        assert people.delete("/devices/device-1").status_code == 200
    assert [client.get(f"{BASE}/device-1").status_code for client in clients] == [401] * 3
    for client in clients:
        client.close()


@BOTH
def test_what_is_not_there_or_malformed_is_refused_in_the_same_form(server: RunningServer, tmp_path: Path) -> None:
    with server.people() as people, server.enrol("device-1", create_token(server), tmp_path) as device:
        for answer in (
            people.get("/nothing"),
            people.put("/devices"),
            people.post("/devices/device-1/actions", json={"bundle": 2**70}),
            people.post("/devices/device-1/actions", content=b"\xff"),
            people.delete("/enrolment-tokens/" + "9" * 5000),
            device.get(f"{BASE}/device-1/deploymentBase/" + "9" * 5000),
            device.get(f"{BASE}/device-1/deploymentBase/999999999999999999"),
            device.post(f"{BASE}/device-1/deploymentBase/1/feedback", content=b"[" * 100_000),
            device.put(f"{BASE}/device-1/configData", json={"data": {"a": 1}}),
        ):
            assert 400 <= answer.status_code < 500 and "message" in answer.json(), answer.text[:300]


def test_a_client_that_sends_endless_headers_is_cut_off(server: RunningServer) -> None:
    port = server.port
    with socket.create_connection(("127.0.0.1", port)) as plain:
        connection = server.context().wrap_socket(plain, server_hostname="127.0.0.1")
        connection.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(b"X: " + b"y" * 1000 + b"\r\n")
    with server.anybody() as anybody:
        assert anybody.get("/healthz").text == "ok\n"


@BOTH
def test_roles_and_tokens_of_people_are_created_listed_and_revoked(server: RunningServer) -> None:
    with server.people() as people:
        token = people.post("/tokens", json={"name": "ann", "role": "viewer"}).json()["token"]
        assert people.post("/tokens", json={"name": "ann", "role": "viewer"}).status_code == 409
        assert people.post("/tokens", json={"name": "bob", "role": "king"}).status_code == 400
        assert [(view["name"], view["role"]) for view in people.get("/tokens").json()] == [
            ("admin", "admin"), ("ann", "viewer"),
        ]  # fmt: skip
        headers = {"authorization": f"Bearer {token}"}
        assert people.get("/devices", headers=headers).status_code == 200
        for method, path in (
            ("POST", "/enrolment-tokens"),
            ("POST", "/rollouts"),
            ("DELETE", "/devices/x"),
            ("GET", "/tokens"),
        ):
            assert people.request(method, path, headers=headers, json={}).status_code == 403, path
        assert people.delete("/tokens/ann").status_code == 200
        assert people.delete("/tokens/ann").status_code == 404
        assert people.get("/devices", headers=headers).status_code == 401
        number = people.post("/enrolment-tokens", json={}).json()["id"]
        assert people.delete(f"/enrolment-tokens/{number}").status_code == 200
        (view,) = people.get("/enrolment-tokens").json()
        assert view["revoked"] and "token" not in view and "hash" not in view


def test_a_device_with_a_token_of_its_own_needs_no_certificate(server: RunningServer) -> None:
    with server.people() as people:
        token = people.post("/devices/till-9/target-token").json()["token"]
    with server.anybody() as anybody:
        for header, status in ((f"TargetToken {token}", 200), ("TargetToken x", 401), (f"GatewayToken {token}", 401)):
            assert anybody.get(f"{BASE}/till-9", headers={"authorization": header}).status_code == status
        assert anybody.get(f"{BASE}/till-8", headers={"authorization": f"TargetToken {token}"}).status_code == 401


def test_bundles_are_downloaded_from_another_server_if_that_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "fleet/files").mkdir(parents=True)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "fleet/files")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{files.server_port}"
        with running_server(tmp_path, "--artifact-url", f"{url}/") as server:
            content = make_bundle(tmp_path / "one.raucb", load_keys(tmp_path / "keys"), "1.1.0")
            with server.enrol("device-1", create_token(server), tmp_path) as device:
                action = server.order_update("device-1", tmp_path / "one.raucb")
                update = device.get(f"{BASE}/device-1/deploymentBase/{action}").json()
            (artifact,) = update["deployment"]["chunks"][0]["artifacts"]
            link = artifact["_links"]["download"]["href"]
            assert link == f"{url}/{artifact['hashes']['sha256']}"
            assert httpx.get(link).content == content
        files.shutdown()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "a name"], "this is not the name of a server: 'a name'"),
        (["--keyring", "/etc/hostname"], "/etc/hostname: the keyring has no certificate"),
        (["unit", "--name", "https://example.com"], "this is not the name of a server: 'https://example.com'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["serve", *options])
    assert isinstance(result.exception, Error) and message in f"{result.exception.where}: {result.exception}"
    assert not list(tmp_path.iterdir())


def test_a_command_of_serve_refuses_options_that_it_would_ignore(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["serve", "--poll", "5", "unit"])
    assert str(result.exception) == "--poll has no effect on `serve unit`"
    result = CliRunner().invoke(cli, ["serve", "--data", str(tmp_path / "a"), "backup", str(tmp_path / "b")])
    assert isinstance(result.exception, Error) and result.exception.where == str(tmp_path / "a")


def test_an_authority_whose_creation_was_interrupted_is_completed(tmp_path: Path) -> None:
    before = load_authority(tmp_path, "device-ca")
    (tmp_path / "device-ca.crt").unlink()
    after = load_authority(tmp_path, "device-ca")
    certificate = before.issue("shop-1", generate_key().public_key())
    certificate.verify_directly_issued_by(after.certificate)


def test_one_data_folder_has_one_server(server: RunningServer) -> None:
    command = [sys.executable, "-m", "osbuild", "serve", "--data", str(server.data), "--listen", "127.0.0.1:0"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1 and "another update server uses this data folder" in second.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--database", "postgresql://edge:hunter2@localhost/fleet"), "could read the password of --database"),
        (("--database", "postgresql://edge@localhost/fleet?password=hunter2"), "could read the password of --database"),
        (("--database", "mysql://edge:hunter2@localhost/fleet"), "not the address of a database of PostgreSQL"),
        (("--database", "hunter2"), "not the address of a database of PostgreSQL"),
        (("--database", "env:EDGE_TEST_DATABASE"), "the database can't be opened"),
        (("--artifact-url", "files.example.com"), "not the address of a file server"),
    ],
)
def test_a_wrong_database_or_file_server_is_one_error_without_secrets(
    tmp_path: Path, options: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATABASE, f"postgresql://edge:hunter2@/fleet?host={tmp_path}")
    result = CliRunner().invoke(cli, ["serve", "--data", str(tmp_path / "fleet"), "--listen", "127.0.0.1:0", *options])
    assert isinstance(result.exception, Error) and message in str(result.exception)
    assert "hunter2" not in "".join(traceback.format_exception(result.exception)) + result.output


@BOTH
def test_bundles_of_two_boards_have_the_same_name_and_version(server: RunningServer, tmp_path: Path) -> None:
    keys, boards = load_keys(tmp_path / "keys"), ("edge-arm64", "edge-x86_64")
    for board in boards:
        make_bundle(tmp_path / f"{board}.raucb", keys, "1.1.0", compatible=board)
    numbers = [server.publish(tmp_path / f"{board}.raucb") for board in boards]
    assert [server.publish(tmp_path / f"{board}.raucb") for board in boards] == numbers, "they are there already"
    with server.people() as people:
        views = people.get("/bundles").json()
    listed = [(view["id"], view["name"], view["version"], view["compatible"]) for view in views]
    expected = [(number, "edge-server", "1.1.0", board) for number, board in zip(numbers, boards, strict=True)]
    assert sorted(listed) == sorted(expected)
    with server.enrol("device-1", create_token(server), tmp_path) as device:
        attributes = {"data": {"compatible": "edge-x86_64"}}
        assert device.put(f"{BASE}/device-1/configData", json=attributes).status_code == 200
        title = {"name": "edge-server", "version": "1.1.0"}
        assert device.put(f"{BASE}/device-1/installedBase", json=title).status_code == 201
        by_compatible = {"name": "edge-x86_64", "version": "1.1.0"}
        assert device.put(f"{BASE}/device-1/installedBase", json=by_compatible).status_code == 200, "no news"
        link = device.get(f"{BASE}/device-1").json()["_links"]["installedBase"]["href"]
        (chunk,) = device.get(httpx.URL(link).path).json()["deployment"]["chunks"]
    assert [artifact["filename"] for artifact in chunk["artifacts"]] == ["edge-x86_64.raucb"]
    make_bundle(tmp_path / "edge-arm64.raucb", keys, "1.1.0", compatible="edge-arm64")
    with server.people() as people:
        answer = people.put("/bundles/edge-arm64.raucb", content=(tmp_path / "edge-arm64.raucb").read_bytes())
    assert answer.status_code == 409 and "1.1.0 for edge-arm64 exists already with other contents" in answer.text
