"""Our server gives the answers that hawkBit gives: the same requests, the same status and the same keys.

With $EDGE_TEST_HAWKBIT, a real hawkBit gets the requests too (docs/fleet.md, "hawkBit").
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cbor2
import httpx
import pytest

from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import load_keys
from tests.support.ddi_servers import DdiServer, HawkbitServer, OurServer
from tests.support.hawkbit import needs_hawkbit, new_name, real_hawkbit
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import running_server

LINK = {"href": "str"}
POLL = {"config": {"polling": {"sleep": "str"}}}
QUOTA = (403, 429)  # hawkBit has answered 403 before its version 1.0
HASHES = {"sha1": "str", "md5": "str", "sha256": "str"}


@dataclass
class PlayedServer:
    """A server, the device that asks it, and a bundle that is published there."""

    server: DdiServer
    name: str
    device: httpx.Client
    bundle: int
    other: int
    content: bytes
    links: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """The address of a poll. httpx adds a slash to what is empty."""
        return str(self.device.base_url).rstrip("/")

    def poll(self) -> dict[str, Any]:
        """Poll, and return the names of the links."""
        answer = self.device.get(self.base)
        assert answer.status_code == 200, answer.text
        document = answer.json()
        self.links = {name: link["href"] for name, link in document.pop("_links", {}).items()}
        assert shape(document) == POLL
        return {name: link.partition(self.name)[2] for name, link in self.links.items()}

    def send(self, path: str, document: object, method: str = "POST") -> int:
        return self.device.request(method, path, json=document).status_code

    def report(self, path: str, execution: str, finished: str = "none", **status: object) -> int:
        report = {"status": {"execution": execution, "result": {"finished": finished}, **status}}
        return self.send(f"{path}/feedback", report)

    def assign(self, kind: str = "forced", *, confirm: bool = False) -> int:
        return self.server.assign(self.name, self.bundle, kind, confirm=confirm)

    def read(self, path: str) -> Any:
        """Return the shape of what is at `path`, which must be there."""
        answer = self.device.get(path)
        assert answer.status_code == 200, answer.text
        return shape(answer.json())

    def artifact_path(self, deployment: str) -> str:
        """Return the path of the only artifact."""
        (chunk,) = self.device.get(deployment).json()["deployment"]["chunks"]
        links = chunk["artifacts"][0]["_links"]
        link = links.get("download") or links["download-http"]
        return str(link["href"]).partition(self.name)[2]


def shape(document: Any) -> Any:
    """Return a document with the types of its values in place of the values, and the same names for links by http."""
    if isinstance(document, dict):
        return {name.removesuffix("-http"): shape(value) for name, value in document.items()}
    return [shape(value) for value in document] if isinstance(document, list) else type(document).__name__


@pytest.fixture(scope="module", params=["edge-osbuild", pytest.param("hawkBit", marks=needs_hawkbit)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DdiServer]:
    folder = tmp_path_factory.mktemp("server")
    with ExitStack() as stack:
        if request.param == "hawkBit":
            yield HawkbitServer(real_hawkbit(), create_keys(folder / "keys", "Example", PrivateKeyAccess()))
        else:
            yield OurServer(stack.enter_context(running_server(folder)))


@pytest.fixture
def played(server: DdiServer, tmp_path: Path) -> Iterator[PlayedServer]:
    keys = server.keys if isinstance(server, HawkbitServer) else load_keys(folder_of(server) / "keys")
    name = new_name("device")
    content = make_bundle(tmp_path / "one.raucb", keys, f"1.0.0-{name}", 40)
    bundle = server.publish(tmp_path / "one.raucb")
    make_bundle(tmp_path / "two.raucb", keys, f"2.0.0-{name}", 40)
    other = server.publish(tmp_path / "two.raucb")
    with server.create_device(name) as device:
        yield PlayedServer(server, name, device, bundle, other, content)


def folder_of(server: DdiServer) -> Path:
    assert isinstance(server, OurServer)
    return server.server.data.parent


def test_polls_media_types_and_attributes(played: PlayedServer) -> None:
    device, long = played.device, "x" * 129
    assert played.poll() == {"configData": "/configData"}
    refused = device.get(played.base, headers={"authorization": "TargetToken wrong"})
    assert (refused.status_code, refused.content) == (401, b"")
    tag = device.get(played.base).headers["etag"]
    assert device.get(played.base, headers={"if-none-match": tag}).status_code == 304
    assert device.get(played.base, headers={"accept": "text/html"}).status_code == 406
    packed = device.get(played.base, headers={"accept": "application/cbor"})
    assert shape(cbor2.loads(packed.content))["config"] == POLL["config"]
    plain = {"content-type": "text/plain"}
    assert device.put("configData", content=b"{}", headers=plain).status_code == 415
    cbor = {"content-type": "application/cbor"}
    assert device.put("configData", content=cbor2.dumps({"data": {"a": "1"}}), headers=cbor).status_code == 200
    assert played.poll() == {}
    changes: list[tuple[dict[str, Any], int]] = [
        ({"mode": "merge", "data": {"a": None, "b": "2", "empty": ""}}, 200),
        ({"mode": "remove", "data": {"b": ""}}, 200),
        ({"mode": "replace", "data": {"c": "3"}}, 200),
        ({"mode": "other", "data": {"c": "3"}}, 400),
        ({"mode": "merge", "data": {}}, 400),
        ({"mode": "replace", "data": {}}, 400),
        ({"mode": "merge", "data": {long: "1"}}, 400),
        ({"mode": "merge", "data": {"a": long}}, 400),
    ]  # fmt: skip
    assert [played.send("configData", body, "PUT") for body, _ in changes] == [status for _, status in changes]
    many = {"data": {f"a{number}": "1" for number in range(101)}}
    assert played.send("configData", many, "PUT") in QUOTA
    others = played.base.rpartition("/")[0]
    assert device.get(f"{others}/{'x' * 257}").status_code in (400, 401)


def test_an_update_that_is_cancelled_with_an_answer(played: PlayedServer) -> None:
    device, action = played.device, played.assign()
    deployment, cancellation = f"deploymentBase/{action}", f"cancelAction/{action}"
    links = played.poll()
    assert set(links) == {"deploymentBase", "configData"} and links["deploymentBase"].startswith(f"/{deployment}?c=")
    artifact = {
        "filename": "str", "hashes": HASHES, "size": "int", "_links": {"download": LINK, "md5sum": LINK}
    }  # fmt: skip
    chunk = {"part": "str", "version": "str", "name": "str", "artifacts": [artifact]}
    update = {"id": "str", "deployment": {"download": "str", "update": "str", "chunks": [chunk]}}
    assert played.read(links["deploymentBase"]) == update
    document = device.get(deployment).json()
    assert document["id"] == str(action) and document["deployment"]["chunks"][0]["part"] == "os"
    assert {document["deployment"][name] for name in ("download", "update")} == {"forced"}

    bad = [{}, {"status": {}}, {"status": {"execution": "closed"}},
           {"status": {"execution": "other", "result": {"finished": "none"}}}]  # fmt: skip
    assert [played.send(f"{deployment}/feedback", body) for body in bad] == [400] * 4
    assert played.report("deploymentBase/999999999", "proceeding") == 404
    for execution in ("proceeding", "canceled", "scheduled", "rejected", "resumed", "download", "downloaded"):
        assert played.report(deployment, execution, details=[execution], code=7) == 200, execution
    assert played.report(deployment, "proceeding", details=["a single line"], id="1", time="now") == 200
    history = device.get(f"{deployment}?actionHistory=1").json()["actionHistory"]
    assert (history["messages"], set(history)) == (["a single line"], {"status", "messages"})
    assert played.report(deployment, "proceeding", details=["x"] * 51) in QUOTA

    assert device.get(cancellation).status_code == 404 and played.report(cancellation, "closed") == 405
    played.server.cancel(played.name, action)
    assert played.poll()["cancelAction"] == f"/{cancellation}"
    assert device.get(cancellation).json() == {"id": str(action), "cancelAction": {"stopId": str(action)}}
    assert device.get(deployment).status_code == 404
    assert played.report(cancellation, "proceeding") == 200 and "cancelAction" in played.poll()
    assert played.report(cancellation, "rejected") == 200 and "deploymentBase" in played.poll()
    played.server.cancel(played.name, action)
    assert played.report(cancellation, "closed", "failure") == 200 and "deploymentBase" in played.poll()
    played.server.cancel(played.name, action)
    assert played.report(cancellation, "closed", "success") == 200
    assert set(played.poll()) == {"configData"}
    assert device.get(cancellation).status_code == 200 and played.report(cancellation, "closed") == 200
    assert device.get(deployment).status_code == 404 and device.get(f"installedBase/{action}").status_code == 404
    assert played.report(deployment, "closed", "success") == 410


def test_artifacts_are_sent_whole_and_in_ranges(played: PlayedServer) -> None:
    device, content = played.device, played.content
    action = played.assign()
    path, size = played.artifact_path(f"deploymentBase/{action}"), len(content)
    tag = f'"{hashlib.sha1(content, usedforsecurity=False).hexdigest()}"'
    whole = device.get(path)
    assert (whole.content, whole.headers["etag"].strip('"')) == (content, tag.strip('"'))
    assert shape(device.get(path.rpartition("/")[0]).json())[0]["hashes"] == HASHES
    digest = device.get(f"{path}.MD5SUM")
    assert digest.text == f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}  one.raucb"
    assert digest.headers["content-type"].startswith("text/plain")
    for text, begin, end in (("0-131071", 0, 131072), (f"{size - 7}-", size - 7, size), ("-9", size - 9, size)):
        part = device.get(path, headers={"range": f"bytes={text}"})
        assert (part.status_code, part.content) == (206, content[begin:end]), text
        assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    several = device.get(path, headers={"range": "bytes=20-29,0-9"})
    assert several.status_code == 206 and several.headers["content-type"].startswith("multipart/byteranges")
    for bad in ("bytes=x", f"bytes={size}-"):
        refused = device.get(path, headers={"range": bad})
        assert refused.status_code == 416, bad
    assert device.get(path, headers={"if-match": '"other"'}).status_code == 412
    assert device.get(path, headers={"range": "bytes=0-9", "if-range": '"other"'}).status_code == 200
    assert device.get(f"{path}.other").status_code == 404
    played.server.cancel(played.name, action)
    assert device.get(path).status_code == 404, "it is being cancelled"


def test_an_update_that_succeeds_and_one_that_fails(played: PlayedServer) -> None:
    device, action = played.device, played.assign("soft")
    deployment, installed = f"deploymentBase/{action}", f"installedBase/{action}"
    document = device.get(deployment).json()["deployment"]
    assert (document["download"], document["update"]) == ("attempt", "attempt")
    assert played.send("configData", {"data": {"a": "1"}}, "PUT") == 200
    path = played.artifact_path(deployment)
    assert device.get(installed).status_code == 404 and set(played.poll()) == {"deploymentBase"}
    assert played.report(deployment, "closed", "success", details=["done"]) == 200
    assert set(played.poll()) == {"installedBase", "configData"}
    assert {"id", "deployment"} <= set(played.read(installed))
    history = device.get(f"{installed}?actionHistory=-1").json()["actionHistory"]
    assert set(history) == {"status", "messages"} and history["messages"][0] == "done"
    assert played.report(deployment, "closed", "success") == 410
    assert device.get(path).status_code == 404
    assert device.get(path.rpartition("/")[0]).status_code == 200, "the installed one is still described"

    assert played.send("configData", {"data": {"a": "1"}}, "PUT") == 200
    failing = played.server.assign(played.name, played.other)
    assert played.report(f"deploymentBase/{failing}", "closed", "failure", details=["bad"]) == 200
    assert set(played.poll()) == {"installedBase"}, "attributes are not asked for after a failure"
    assert played.report(f"deploymentBase/{failing}", "closed", "none") == 410

    only_download = f"deploymentBase/{played.assign('download-only')}"
    document = device.get(only_download).json()["deployment"]
    assert (document["download"], document["update"]) == ("forced", "skip")
    assert played.report(only_download, "downloaded") == 200
    assert "deploymentBase" not in played.poll() and played.report(only_download, "closed", "success") == 410


def test_a_newer_update_cancels_the_older_one_unless_the_device_was_faster(played: PlayedServer) -> None:
    first, second = played.assign(), played.server.assign(played.name, played.other)
    assert played.poll()["cancelAction"] == f"/cancelAction/{first}"
    assert played.device.get(f"deploymentBase/{first}").status_code == 404
    assert played.report(f"deploymentBase/{first}", "closed", "success") == 200
    links = played.poll()
    assert links["installedBase"].startswith(f"/installedBase/{first}")
    assert links["deploymentBase"].startswith(f"/deploymentBase/{second}?c=")


def test_updates_that_wait_for_a_confirmation(played: PlayedServer) -> None:
    device, action = played.device, played.assign(confirm=True)
    confirmation, deployment = f"confirmationBase/{action}", f"deploymentBase/{action}"
    links = played.poll()
    assert links["confirmationBase"].startswith(f"/{confirmation}?c=") and "deploymentBase" not in links
    overview = device.get("confirmationBase").json()
    assert overview["autoConfirm"]["active"] is False
    assert set(overview["_links"]) == {"activateAutoConfirm", "confirmationBase"}
    assert set(played.read(links["confirmationBase"])) == {"id", "confirmation"}
    assert device.get(deployment).status_code == 404 and played.report(deployment, "closed", "success") == 404
    answers = [played.send(f"{confirmation}/feedback", {"confirmation": text}) for text in ("maybe", "denied")]
    assert answers == [400, 200] and "confirmationBase" in played.poll()
    assert played.send(f"{confirmation}/feedback", {"confirmation": "confirmed", "details": ["yes"]}) == 200
    assert "deploymentBase" in played.poll() and device.get(confirmation).status_code == 404
    assert played.send(f"{confirmation}/feedback", {"confirmation": "confirmed"}) == 404
    assert [played.send("confirmationBase/activateAutoConfirm", {}) for _ in "12"] == [200, 409]
    overview = device.get("confirmationBase").json()
    assert overview["autoConfirm"]["active"] is True and set(overview["_links"]) == {"deactivateAutoConfirm"}
    assert device.post("confirmationBase/deactivateAutoConfirm").status_code == 200
    assert played.report(deployment, "closed", "success") == 200
    assert played.send(f"{confirmation}/feedback", {"confirmation": "confirmed"}) == 410


def test_what_a_device_has_installed_otherwise(played: PlayedServer) -> None:
    title = {"name": "edge-x86_64", "version": f"1.0.0-{played.name}"}
    orders = [{**title, "version": "none"}, {"name": "edge-x86_64"}, title, title]
    assert [played.send("installedBase", order, "PUT") for order in orders] == [404, 400, 201, 200]
    assert "installedBase" in played.poll()
