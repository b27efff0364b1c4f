"""The web page as a browser without JavaScript meets it: real server, HTTPS, cookies, forms."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from http.client import HTTPSConnection
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from osbuild.keys.key_folder import load_keys
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import BASE, RunningServer, create_token, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder) as server:
        fill(server, folder)
        yield server


def fill(server: RunningServer, folder: Path) -> None:
    """Enrol four devices, one attribute of which is hostile, and publish a bundle."""
    token = create_token(server, uses=10)
    for number in range(4):
        with server.enrol(f"shop-{number}", token, folder) as device:
            data = {"version": "1.0.0", "slot": "a", "health": "healthy", "note": "<script>alert(1)</script>"}
            data["order"] = "a\u202eb\x9bc"
            assert device.put(f"{BASE}/shop-{number}/configData", json={"data": data}).status_code == 200
    make_bundle(folder / "one.raucb", load_keys(folder / "keys"), "1.1.0")
    server.publish(folder / "one.raucb")


class Browser:
    """Somebody who has signed in with a token."""

    def __init__(self, server: RunningServer, token: str) -> None:
        self.client = server.anybody()
        self.client.follow_redirects = True
        self.client.headers["origin"] = server.url
        page = self.client.post("/signin", data={"token": token})
        assert page.status_code == 200 and "<h1>Fleet</h1>" in page.text, page.text

    def get(self, path: str, status: int = 200) -> str:
        page = self.client.get(path)
        assert page.status_code == status, page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        return page.text

    def send(self, page: str, path: str, **fields: object) -> httpx.Response:
        match = re.search(r'name="csrf" value="(\w+)"', self.get(page))
        assert match
        return self.client.post(path, data={"csrf": match[1], **{name: str(value) for name, value in fields.items()}})


@pytest.fixture
def admin(server: RunningServer) -> Browser:
    return Browser(server, server.token)


@pytest.fixture
def viewer(server: RunningServer) -> Iterator[Browser]:
    name = f"vera-{uuid4()}"  # the names of revoked tokens are not used again
    token = server.order("/tokens", {"name": name, "role": "viewer"})["token"]
    yield Browser(server, token)
    with server.people() as people:
        people.delete(f"/tokens/{name}")


PAGES = ("/", "/devices", "/devices/shop-1", "/rollouts", "/rollouts/new", "/bundles", "/audit")


def test_nobody_sees_anything_without_signing_in(server: RunningServer) -> None:
    with server.anybody() as anybody:
        for path in PAGES:
            answer = anybody.get(path)
            assert (answer.status_code, answer.headers["location"]) == (303, "/signin"), path
        assert anybody.post("/signin", data={"token": "wrong"}).status_code == 403
        assert anybody.post("/rollouts/new", data={"name": "x"}).status_code == 303


def test_the_session_is_in_a_cookie_that_scripts_and_other_sites_cannot_use(server: RunningServer) -> None:
    with server.anybody() as anybody:
        cookie = anybody.post("/signin", data={"token": server.token}).headers["set-cookie"]
    assert cookie.startswith("__Host-edge-session=")
    assert {"HttpOnly", "Path=/", "SameSite=strict", "Secure"} <= set(cookie.split("; "))


def test_every_page_is_shown_and_contains_nothing_of_elsewhere(admin: Browser) -> None:
    for path in PAGES:
        text = admin.get(path)
        assert "<script>alert" not in text and not re.findall(r'(?:src|href)="(?:https?:)?//', text), path
        assert not re.findall(r"\son\w+=|\sstyle=", text), "neither scripts nor styles in the page"
    text = admin.get("/devices/shop-1")
    assert "&lt;script&gt;alert(1)" in text and "<dd>a\\u202eb\\x9bc</dd>" in text
    assert "\u202e" not in text and "\x9b" not in text
    assert "no device nothing" in admin.get("/devices/nothing", 404)


def test_devices_are_filtered(admin: Browser) -> None:
    text = admin.get("/devices?name=shop-[12]&version=1.*")
    assert re.findall(r">(shop-\d)<", text) == ["shop-1", "shop-2"] and "2 devices" in text
    assert "0 devices" in admin.get("/devices?version=2.*")


def test_a_rollout_is_previewed_created_paused_and_aborted(admin: Browser, server: RunningServer) -> None:
    form = {
        "name": "page-1", "bundle": 1, "selection": "name=shop-*", "groups": "25,75", "success": 100, "error": 1,
        "pause": 0,
    }  # fmt: skip
    preview = admin.send("/rollouts/new", "/rollouts/new", **form, order="preview").text
    assert "4 devices are selected" in preview and 'value="page-1"' in preview
    assert "4 of them have not said for which bundles they are" in preview
    assert server.rollout("page-1")["code"] == "not-found"
    created = admin.send("/rollouts/new", "/rollouts/new", **form, order="create", start="yes")
    assert created.url.path == "/rollouts/page-1" and "0 of 1 devices succeeded" in created.text
    assert "paused by admin" in admin.send("/rollouts/page-1", "/rollouts/page-1/pause").text
    assert "running" in admin.send("/rollouts/page-1", "/rollouts/page-1/resume", retry="yes").text
    assert "page-1" in admin.get("/") and "page-1" in admin.get("/rollouts")
    assert "aborted by admin" in admin.send("/rollouts/page-1", "/rollouts/page-1/abort").text
    again = admin.client.post("/rollouts/page-1/abort", data={"csrf": _form_token(admin)})
    assert again.status_code == 409 and "is aborted" in again.text
    log = admin.get("/audit")
    assert "rollout aborted" in log and "selection: name=shop-*, groups: 1+3, success: 100, error: 1" in log


def _form_token(browser: Browser) -> str:
    match = re.search(r'name="csrf" value="(\w+)"', browser.get("/"))
    assert match
    return match[1]


@pytest.mark.parametrize(
    "changes", [{"groups": "a"}, {"bundle": "x"}, {"selection": "shop"}, {"name": "new"}, {"error": ""}]
)
def test_a_form_that_cannot_be_meant_is_refused(admin: Browser, changes: dict[str, str]) -> None:
    form = {"name": "page-2", "bundle": 1, "groups": "100", "success": 100, "error": 1, "pause": 0, **changes}
    answer = admin.send("/rollouts/new", "/rollouts/new", **form, order="create")
    assert answer.status_code == 400 and 'role="alert"' in answer.text


def test_forms_of_other_sites_and_of_viewers_are_refused(admin: Browser, viewer: Browser) -> None:
    assert admin.client.post("/rollouts/new", data={"name": "x"}).status_code == 403
    assert admin.client.post("/rollouts/new", data={"name": "x", "csrf": _form_token(viewer)}).status_code == 403
    assert "New rollout" not in viewer.get("/rollouts")
    refused = viewer.send("/", "/rollouts/new", name="x")
    assert refused.status_code == 403 and "needs the role operator" in refused.text


def test_a_session_ends_with_its_token_and_when_signing_out(admin: Browser, server: RunningServer) -> None:
    token = server.order("/tokens", {"name": "otto", "role": "operator"})["token"]
    otto = Browser(server, token)
    with server.people() as people:
        assert people.delete("/tokens/otto").status_code == 200
    assert "<h1>Sign in</h1>" in otto.client.get("/devices").text
    cookie = dict(admin.client.cookies)
    assert "<h1>Sign in</h1>" in admin.send("/", "/signout").text
    with server.anybody() as anybody:
        anybody.cookies.update(cookie)
        assert anybody.get("/").status_code == 303, "the session is gone, not only the cookie"


def test_a_page_is_told_when_its_rollout_changes(admin: Browser, server: RunningServer) -> None:
    server.order(
        "/rollouts", {"name": "live", "bundle": 1, "groups": [{"percent": 100}], "selection": {"name": "shop-3"}}
    )
    with admin.client.stream("GET", "/rollouts/live/events", timeout=20) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = events.iter_lines()
        assert next(lines).startswith(":")
        server.order("/rollouts/live/start", {})
        assert any(line == "data: changed" for line in lines)


def send_bundle(browser: Browser, contents: bytes, token: str | None) -> httpx.Response:
    fields = {} if token is None else {"csrf": token}
    return browser.client.post("/bundles", data=fields, files={"bundle": ("new.raucb", contents)})


def test_uploads_of_other_sites_and_of_viewers_are_refused_and_leave_nothing(
    admin: Browser, viewer: Browser, server: RunningServer, tmp_path: Path
) -> None:
    contents = make_bundle(tmp_path / "new.raucb", load_keys(server.data.parent / "keys"), "3.0.0")
    before = sorted(path.name for path in (server.data / "files").iterdir())
    assert send_bundle(admin, contents, None).status_code == 403
    assert send_bundle(admin, contents, _form_token(viewer)).status_code == 403
    assert send_bundle(viewer, contents, _form_token(viewer)).status_code == 403
    assert "Upload" not in viewer.get("/bundles")
    refused = send_bundle(admin, contents[:-1], _form_token(admin))
    assert refused.status_code == 422 and 'role="alert"' in refused.text
    assert send_bundle(admin, b"", _form_token(admin)).status_code == 422
    assert admin.client.post("/bundles", data={"csrf": _form_token(admin)}).status_code == 415
    assert sorted(path.name for path in (server.data / "files").iterdir()) == before
    with server.people() as people:
        refusals = [entry for entry in people.get("/audit").json() if entry["event"] == "publish refused"]
    codes = [(entry["who"], entry["details"]["code"]) for entry in refusals]
    assert codes[:2] == [("admin", "not-a-bundle"), ("admin", "damaged-bundle")]
    assert {who for who, _ in codes} == {"admin"}, "nothing of a viewer is recorded"
    assert send_bundle(admin, contents, _form_token(admin)).url.path == "/rollouts/new"
    assert "edge-server 3.0.0" in admin.get("/bundles") and "bundle published" in admin.get("/audit?subject=3.0.0")


def test_a_bundle_that_is_too_large_is_refused_before_it_is_sent(admin: Browser, server: RunningServer) -> None:
    connection = HTTPSConnection("127.0.0.1", server.port, context=server.context(), timeout=60)
    connection.putrequest("POST", "/bundles")
    cookies = "; ".join(f"{name}={value}" for name, value in admin.client.cookies.items())
    connection.putheader("Cookie", cookies)
    connection.putheader("Content-Length", str(2**50))
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.endheaders(b"--x\r\n")
    answer = connection.getresponse()
    assert answer.status == 413 and b"at most 16.0 GiB" in answer.read()
    connection.close()


def test_the_audit_log_is_filtered_and_paged(admin: Browser, server: RunningServer) -> None:
    for number in range(102):
        server.order("/enrolment-tokens", {"note": f"token {number}"})
    first = admin.get("/audit?who=admin&event=enrolment+token")
    assert first.count("<li><time") == 100 and "enrolled" not in first
    older = re.search(r'href="(/audit\?[^"]*before=\d+)"', first)
    assert older and "Newest entries" not in first
    second = admin.get(older[1].replace("&amp;", "&"))
    assert 3 <= second.count("<li><time") < 100 and "Newest entries" in second
    assert "Nothing matches" in admin.get("/audit?subject=%25")


def test_the_head_of_a_page_says_when_the_session_ends(server: RunningServer) -> None:
    token = server.order("/tokens", {"name": "brief", "role": "viewer", "seconds": 600})["token"]
    until = re.search(r'until <time datetime="([^"]+)"', Browser(server, token).get("/"))
    assert until and 0 < (datetime.fromisoformat(until[1]) - datetime.now(UTC)).total_seconds() <= 600


@pytest.mark.parametrize("name", ["style.css", "page.js", "icon.svg"])
def test_static_files_are_public_and_others_are_not_there(server: RunningServer, name: str) -> None:
    with server.anybody() as anybody:
        assert anybody.get(f"/static/{name}").status_code == 200
        for path in ("/static/../routes.py", "/static/routes.py", "/static/%2e%2e/routes.py"):
            assert anybody.get(path).status_code == 404


def test_operators_request_something_of_a_device_on_its_page(
    admin: Browser, viewer: Browser, server: RunningServer, tmp_path: Path
) -> None:
    with server.enrol("kiosk", create_token(server), tmp_path) as device:
        kinds = re.findall(r"<option>(\w+)</option>", admin.get("/devices/kiosk"))
        assert kinds == ["diagnostics", "reboot", "rotate", "rollback"], "a wipe needs the command line"
        assert admin.send("/devices/kiosk", "/devices/kiosk/requests", kind="wipe").status_code == 400
        assert "diagnostics" in admin.send("/devices/kiosk", "/devices/kiosk/requests", kind="diagnostics").text
        address = device.get(f"{BASE}/kiosk").json()["_links"]["request"]["href"]
        number = device.get(address).json()["id"]
        assert device.put(f"{address}/diagnostics", content=b"\x1f\x8b archive").status_code == 200
        answer = {"state": "succeeded", "details": ["<script>alert(1)</script>"]}
        assert device.post(f"{address}/result", json=answer).status_code == 200
    text, path = admin.get("/devices/kiosk"), f"/requests/{number}/diagnostics"
    assert path in text and "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    archive = admin.client.get(path)
    assert archive.content == b"\x1f\x8b archive" and "attachment" in archive.headers["content-disposition"]
    text = viewer.get("/devices/kiosk")
    assert "succeeded" in text and path not in text and 'name="kind"' not in text
    assert "needs the role operator" in viewer.get(path, 403)
    assert viewer.send("/", "/devices/kiosk/requests", kind="reboot").status_code == 403
    with server.people() as people:
        people.delete("/devices/kiosk")
    assert 'name="kind"' not in admin.get("/devices/kiosk")


def test_a_bundle_is_deleted_on_the_page_when_nothing_needs_it(
    server: RunningServer, admin: Browser, viewer: Browser, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "old.raucb", load_keys(server.data.parent / "keys"), "0.1.0")
    number = server.publish(tmp_path / "old.raucb")
    assert f"/bundles/{number}/delete" not in viewer.get("/bundles")
    order = server.order("/devices/shop-3/actions", {"bundle": number})
    refused = admin.send("/bundles", f"/bundles/{number}/delete")
    assert refused.status_code == 409 and "the device shop-3 is told to install" in refused.text
    with server.people() as people:
        people.delete(f"/devices/shop-3/actions/{order['id']}")
        assert people.delete(f"/bundles/{number}").status_code == 409, "the device has not agreed"
        people.delete("/devices/shop-3")
    page = admin.send("/bundles", f"/bundles/{number}/delete")
    assert page.status_code == 200 and "edge-server 0.1.0" not in page.text


def test_a_live_page_ends_at_once_with_the_server(tmp_path: Path) -> None:
    """A stream that the server has to break off after its patience ends without the last chunk, and with a message."""
    with running_server(tmp_path) as server:
        fill(server, tmp_path)
        client = Browser(server, server.token).client
        with client.stream("GET", "/devices/shop-1/events") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            server.process.terminate()
            events = "".join(stream.iter_text())  # raises if the stream is not complete
    assert set(events.split("\n\n")) <= {": still here", "data: changed", ""}
    assert server.process.stderr is not None and server.process.stderr.read() == ""
