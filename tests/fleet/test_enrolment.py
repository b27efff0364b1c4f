"""Who may enrol: devices that are new, known or decommissioned, with right and wrong tokens, once and again."""

import itertools
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from cryptography import x509

from osbuild.fleet.certificates import MOST_CERTIFICATES
from osbuild.fleet.enrolment import MOST_REFUSALS
from tests.support.postgresql import text_of
from tests.support.update_server import BASE, PATIENT, RunningServer, create_token, make_request, running_server

DATABASE = "EDGE_TEST_DATABASE"
GATEWAY = "a gateway's token"
HOSTS = itertools.count(1)
UNSAFE = ["a/b", "dev-b/actions/3", ".", "..", "a\\b", "a?b", "a#b", "a%2fb", "a\x07b", "a\nb", "a\n", "a b", ""]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "gateway").write_text(GATEWAY)
    options = ["--gateway-token", f"file:{folder}/gateway"]
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "postgresql":
            patch.setenv(DATABASE, text_of(request.getfixturevalue("postgresql").create_database()))
            options += ["--database", f"env:{DATABASE}"]
        with running_server(folder, *options) as server:
            yield server
    assert server.process.stderr is not None and server.process.stderr.read() == ""


def enrol(server: RunningServer, name: str, token: str, folder: Path, address: str = "") -> httpx.Response:
    """Return the answer to an enrolment with the key in the folder, from `address` or one that is new to the server."""
    body = {"device": name, "token": token, "request": make_request(name, folder)}
    transport = httpx.HTTPTransport(verify=server.context(), local_address=address or f"127.0.1.{next(HOSTS)}")
    with httpx.Client(transport=transport, timeout=PATIENT) as client:
        return client.post(f"{server.url}/enrol/v1", json=body)


def decommission(server: RunningServer, name: str) -> None:
    with server.people() as people:
        assert people.delete(f"/devices/{name}").status_code == 200


def audit_events(server: RunningServer, subject: str) -> list[str]:
    """Return the events about a device, the newest first."""
    with server.people() as people:
        return [entry["event"] for entry in people.get("/audit").json() if entry["subject"] == subject]


@pytest.mark.parametrize("bound", [True, False])
def test_no_token_from_before_its_end_enrols_a_decommissioned_device(
    server: RunningServer, tmp_path: Path, bound: bool
) -> None:
    name = f"ended-{bound}"
    used = create_token(server, uses=5, **({"device": name} if bound else {}))
    assert enrol(server, name, used, tmp_path).status_code == 200
    waiting, for_others = create_token(server, device=name), create_token(server, device=f"{name}-2")
    decommission(server, name)
    for token, problem in ((used, "was revoked" if bound else "only for its name"), (waiting, "was revoked")):
        answer = enrol(server, name, token, tmp_path)
        assert answer.status_code == 403 and problem in answer.json()["message"]
    for_many = enrol(server, name, create_token(server, uses=5), tmp_path)
    assert for_many.status_code == 403 and "only for its name" in for_many.json()["message"]
    assert server.is_decommissioned(name)
    assert enrol(server, f"{name}-2", for_others, tmp_path).status_code == 200, "the token of another name"
    assert enrol(server, name, create_token(server, device=name), tmp_path).status_code == 200
    assert not server.is_decommissioned(name)
    assert enrol(server, name, used, tmp_path).status_code == 403, "also not when the device is in use again"


def test_every_known_device_needs_a_token_that_is_only_for_its_name(server: RunningServer, tmp_path: Path) -> None:
    with server.people() as people, server.anybody() as anybody:
        assert people.post("/devices/with-token/target-token").status_code == 200
        gateway = {"authorization": f"GatewayToken {GATEWAY}"}
        assert anybody.get(f"{BASE}/through-gateway", headers=gateway).status_code == 200
    for name in ("with-token", "through-gateway"):
        answer = enrol(server, name, create_token(server, uses=5), tmp_path)
        assert answer.status_code == 403 and "known already" in answer.json()["message"]
        assert enrol(server, name, create_token(server, device=name), tmp_path).status_code == 200


def test_a_repeated_enrolment_gets_the_same_certificate_until_it_is_replaced(
    server: RunningServer, tmp_path: Path
) -> None:
    token = create_token(server)
    answers = [enrol(server, "again", token, tmp_path) for _ in range(15)]
    assert {answer.status_code for answer in answers} == {200}
    certificates = [x509.load_pem_x509_certificate(answer.content) for answer in answers]
    assert len({certificate.tbs_certificate_bytes for certificate in certificates}) == 1
    assert audit_events(server, "again") == ["device enrolled"]
    for number in (0, -1):
        (tmp_path / "again.crt").write_bytes(answers[number].content)
        with server.client("again", tmp_path) as device:
            assert device.get(f"{BASE}/again").status_code == 200
    folders = [tmp_path, tmp_path / "second", tmp_path / "third"]
    for before, folder in itertools.pairwise(folders):
        folder.mkdir()
        assert enrol(server, "again", token, tmp_path).status_code == 200, "its certificate is still accepted"
        server.renew("again", before, folder).close()
    answer = enrol(server, "again", token, tmp_path)
    assert answer.status_code == 403 and "has been replaced" in answer.json()["message"]
    with server.client("again", folders[2]) as device:
        assert device.get(f"{BASE}/again").status_code == 200, "nothing has changed for the device"


def test_a_device_gets_few_certificates_a_day_but_a_new_token_always_works(
    server: RunningServer, tmp_path: Path
) -> None:
    server.enrol("greedy", create_token(server), tmp_path).close()
    statuses = []
    for _ in range(MOST_CERTIFICATES + 3):
        with server.client("greedy", tmp_path) as device:
            body = {"device": "greedy", "request": make_request("greedy", tmp_path)}
            answer = device.post("/enrol/v1/renew", json=body)
        statuses.append(answer.status_code)
        if answer.status_code == 200:
            (tmp_path / "greedy.crt").write_text(answer.text)
    assert statuses == [200] * (MOST_CERTIFICATES - 1) + [429] * 4, "the first one was for the token"
    assert answer.headers["retry-after"] and answer.json()["errorCode"] == "too-many-certificates"
    assert audit_events(server, "greedy").count("certificate renewed") == MOST_CERTIFICATES - 1
    with server.client("greedy", tmp_path) as device:
        assert device.get(f"{BASE}/greedy").status_code == 200
    assert enrol(server, "greedy", create_token(server, device="greedy"), tmp_path).status_code == 200


@pytest.mark.parametrize("name", UNSAFE)
def test_a_name_that_is_not_one_part_of_an_address_is_refused_everywhere(
    server: RunningServer, tmp_path: Path, name: str
) -> None:
    with server.anybody() as anybody, server.people() as people:
        body = {"device": name, "token": create_token(server), "request": "x"}
        order = people.post("/enrolment-tokens", json={"device": name})
        for answer, code in ((anybody.post("/enrol/v1", json=body), "errorCode"), (order, "code")):
            assert (answer.status_code, answer.json()[code]) == (400, "bad-device-id")
        if "/" not in name and name not in ("", ".", ".."):  # these are another address
            headers = {"authorization": f"GatewayToken {GATEWAY}"}
            answer = anybody.get(f"{BASE}/{quote(name, safe='')}", headers=headers)
            assert (answer.status_code, answer.json()["errorCode"]) == (400, "bad-device-id")


def test_what_a_token_for_a_known_device_needs_and_how_it_is_recorded(server: RunningServer, tmp_path: Path) -> None:
    with server.people() as people:
        token = people.post("/tokens", json={"name": "operator-1", "role": "operator"}).json()["token"]
        operator = {"authorization": f"Bearer {token}"}
        assert people.post("/enrolment-tokens", json={"device": "till"}, headers=operator).status_code == 200
        assert audit_events(server, "till") == []
        assert enrol(server, "till", create_token(server), tmp_path).status_code == 200
        assert people.post("/enrolment-tokens", json={"device": "till"}, headers=operator).status_code == 200
        assert audit_events(server, "till") == ["enrolment token for known device created", "device enrolled"]
        decommission(server, "till")
        refused = people.post("/enrolment-tokens", json={"device": "till"}, headers=operator)
        assert refused.status_code == 403 and "the device till is decommissioned" in refused.json()["message"]
        answer = people.post("/devices/till/target-token")
        assert (answer.status_code, answer.json()["code"]) == (409, "decommissioned")
        assert people.post("/enrolment-tokens", json={"device": "till"}).status_code == 200
        newest = people.get("/audit").json()[0]
    assert (newest["event"], newest["subject"]) == ("enrolment token for known device created", "till")
    assert newest["details"]["decommissioned"] is True


def test_an_access_token_has_no_line_break_in_its_name(server: RunningServer) -> None:
    with server.people() as people:
        for name in ("ann\n", "ann\n\n", "\nann", "a\nnn"):
            answer = people.post("/tokens", json={"name": name, "role": "viewer"})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad-body")
        assert [view["name"] for view in people.get("/tokens").json() if "ann" in view["name"]] == []


@pytest.fixture(scope="module")
def lone_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server on SQLite."""
    with running_server(tmp_path_factory.mktemp("lone")) as server:
        yield server


@pytest.mark.sqlite
def test_wrong_tokens_of_one_address_neither_fill_the_log_nor_stop_right_ones(
    lone_server: RunningServer, tmp_path: Path
) -> None:
    gateway = "127.0.0.2"
    wrong = [enrol(lone_server, "stranger", "wrong", tmp_path, gateway) for _ in range(MOST_REFUSALS + 4)]
    assert [answer.status_code for answer in wrong] == [403] * MOST_REFUSALS + [429] * 4
    assert wrong[-1].headers["retry-after"] == "60" and "retry-after" not in wrong[0].headers
    assert enrol(lone_server, "customer", create_token(lone_server), tmp_path, gateway).status_code == 200
    assert enrol(lone_server, "stranger", "wrong", tmp_path, gateway).status_code == 429
    assert audit_events(lone_server, "stranger") == ["enrolment refused"] * MOST_REFUSALS


@pytest.mark.sqlite
def test_a_device_whose_name_is_forbidden_now_can_be_decommissioned(lone_server: RunningServer) -> None:
    names = ["a/b", "..", "a%2fb"]
    database = sqlite3.connect(lone_server.data / "fleet.db", timeout=60)
    with database:
        rows = [(name, 0) for name in names]
        database.executemany("INSERT INTO devices (name, created, attributes, attributes_wanted, auto_confirm)"
                             " VALUES (?, ?, '{}', 0, 0)", rows)  # fmt: skip
    database.close()
    with lone_server.people() as people:
        for name in names:
            assert people.delete("/devices", params={"name": name}).status_code == 200
            assert people.delete("/devices", params={"name": name}).status_code == 404
        assert people.delete("/devices").status_code == 404
        assert not {device["name"] for device in people.get("/devices").json()} & set(names)
