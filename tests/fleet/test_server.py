"""The update server as its clients meet it: a process, HTTPS, certificates, bundles signed by OpenSSL."""

import hashlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, start_server

FEEDBACK = {"id": "1", "time": "now", "status": {"execution": "closed", "result": {"finished": "success"}}}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    server = start_server(tmp_path / "fleet")
    yield server
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0, server.process.communicate()


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


def test_enrolment_tokens_are_used_up_and_a_name_needs_a_newer_one(server: RunningServer, tmp_path: Path) -> None:
    token = create_token(server, uses=2)
    first = server.enrol("device-1", token, tmp_path)

    def refused(name: str, token: str) -> str:
        with pytest.raises(AssertionError) as caught:
            server.enrol(name, token, tmp_path)
        return str(caught.value)

    assert "older than the enrolment" in refused("device-1", token)
    assert "unknown" in refused("device-3", token[:-1])
    server.enrol("device-2", token, tmp_path)
    assert "used already" in refused("device-3", token)
    time.sleep(0.01)
    with server.enrol("device-1", create_token(server), tmp_path) as again, first:
        assert again.get(f"{BASE}/device-1").status_code == 200
        assert first.get(f"{BASE}/device-1").status_code == 401, "its certificate was replaced"
    with server.people() as people:
        events = [entry["event"] for entry in people.get("/audit").json()]
    assert events.count("enrolment refused") == 3 and events.count("device enrolled") == 3
    assert token not in (server.data / "fleet.db").read_bytes().decode(errors="ignore")


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
