"""Who may use which route. A route without a row here fails."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support.update_server import BASE, RunningServer, create_token, running_server

# Access and method of each route: for everybody, for a device with its own name, for people with at least a role.
ROWS = """
everybody GET /healthz
everybody GET /readyz
everybody POST /enrol/v1
everybody POST /enrol/v1/renew
viewer GET /metrics
viewer GET /openapi.json
device GET /{tenant}/controller/v1/{device}
device GET /{tenant}/controller/v1/{device}/deploymentBase/{action}
device POST /{tenant}/controller/v1/{device}/deploymentBase/{action}/feedback
device GET /{tenant}/controller/v1/{device}/cancelAction/{action}
device POST /{tenant}/controller/v1/{device}/cancelAction/{action}/feedback
device GET /{tenant}/controller/v1/{device}/installedBase/{action}
device PUT /{tenant}/controller/v1/{device}/installedBase
device GET /{tenant}/controller/v1/{device}/confirmationBase
device POST /{tenant}/controller/v1/{device}/confirmationBase/activateAutoConfirm
device POST /{tenant}/controller/v1/{device}/confirmationBase/deactivateAutoConfirm
device GET /{tenant}/controller/v1/{device}/confirmationBase/{action}
device POST /{tenant}/controller/v1/{device}/confirmationBase/{action}/feedback
device PUT /{tenant}/controller/v1/{device}/configData
device GET /{tenant}/controller/v1/{device}/requests/{request}
device PUT /{tenant}/controller/v1/{device}/requests/{request}/diagnostics
device POST /{tenant}/controller/v1/{device}/requests/{request}/result
device GET /{tenant}/controller/v1/{device}/softwaremodules/{bundle}/artifacts
device GET /{tenant}/controller/v1/{device}/softwaremodules/{bundle}/artifacts/{name}
viewer GET /api/v1/devices
admin DELETE /api/v1/devices
viewer GET /api/v1/devices/{name}
admin DELETE /api/v1/devices/{name}
admin POST /api/v1/devices/{name}/target-token
operator POST /api/v1/devices/{name}/tags
operator POST /api/v1/devices/{name}/actions
operator DELETE /api/v1/devices/{name}/actions/{action}
viewer GET /api/v1/requests
viewer GET /api/v1/requests/{number}
operator GET /api/v1/requests/{number}/diagnostics
viewer GET /api/v1/devices/{name}/requests
operator POST /api/v1/devices/{name}/requests
viewer GET /api/v1/bundles
operator PUT /api/v1/bundles/{filename}
operator DELETE /api/v1/bundles/{bundle}
viewer GET /api/v1/audit
viewer GET /api/v1/rollouts
operator POST /api/v1/rollouts
viewer POST /api/v1/rollouts/preview
viewer GET /api/v1/rollouts/{name}
operator POST /api/v1/rollouts/{name}/start
operator POST /api/v1/rollouts/{name}/pause
operator POST /api/v1/rollouts/{name}/resume
operator POST /api/v1/rollouts/{name}/abort
admin GET /api/v1/tokens
admin POST /api/v1/tokens
admin DELETE /api/v1/tokens/{name}
viewer GET /api/v1/enrolment-tokens
operator POST /api/v1/enrolment-tokens
operator DELETE /api/v1/enrolment-tokens/{number}
"""
TABLE = {(method, path): access for access, method, path in map(str.split, ROWS.strip().splitlines())}
ROLES = ("viewer", "operator", "admin")
VALUES = {
    "tenant": "DEFAULT", "device": "shop-1", "action": 999, "bundle": 999, "request": 999, "number": 999,
    "filename": "a.raucb", "name": "absent",
}  # fmt: skip
GATEWAY = "a gateway's token"


@dataclass(frozen=True)
class Caller:
    """Somebody who sends requests. `role` is that of the token; `device` says whether it may speak for shop-1."""

    client: httpx.Client
    authorization: str = ""
    role: str = ""
    device: bool = False

    def expected(self, access: str) -> int:
        """Return 200 if the caller may use a route, otherwise the status of the refusal."""
        if access == "everybody" or (access == "device" and self.device):
            return 200
        if access == "device" or not self.role:
            return 401
        return 200 if ROLES.index(self.role) >= ROLES.index(access) else 403


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roles")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[RunningServer]:
    (folder / "gateway").write_text(GATEWAY)
    with running_server(folder, "--gateway-token", f"file:{folder}/gateway") as server:
        yield server


@pytest.fixture(scope="module")
def callers(server: RunningServer, folder: Path) -> Iterator[dict[str, Caller]]:
    token = create_token(server, uses=3)
    own, other, gone = (server.enrol(name, token, folder) for name in ("shop-1", "shop-2", "shop-3"))
    anybody = server.anybody()
    with server.people() as people:

        def create(name: str, role: str, seconds: int = 3600) -> str:
            answer = people.post("/tokens", json={"name": name, "role": role, "seconds": seconds})
            return f"Bearer {answer.json()['token']}"

        bearers = {role: create(f"a-{role}", role) for role in ROLES}
        revoked, expired = create("revoked", "admin"), create("expired", "admin", 1)
        target = people.post("/devices/shop-4/target-token").json()["token"]
        people.delete("/tokens/revoked")
        people.delete("/devices/shop-3")
    while anybody.get("/metrics", headers={"authorization": expired}).status_code == 200:
        time.sleep(0.2)
    yield {
        "nobody": Caller(anybody),
        **{role: Caller(anybody, bearer, role) for role, bearer in bearers.items()},
        "revoked token": Caller(anybody, revoked),
        "expired token": Caller(anybody, expired),
        "wrong scheme": Caller(anybody, bearers["admin"].replace("Bearer", "Basic")),
        "device": Caller(own, device=True),
        "other device": Caller(other),
        "token of another device": Caller(anybody, f"TargetToken {target}"),
        "decommissioned device": Caller(gone),
        "gateway": Caller(anybody, f"GatewayToken {GATEWAY}", device=True),
        "wrong gateway": Caller(anybody, "GatewayToken x"),
    }
    for client in (own, other, gone, anybody):
        client.close()


def test_every_route_has_a_row(server: RunningServer) -> None:
    with server.anybody() as anybody:
        paths = anybody.get("/openapi.json", headers={"authorization": f"Bearer {server.token}"}).json()["paths"]
    routes = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert routes == TABLE.keys(), "add a row for each new route"


@pytest.mark.parametrize(("method", "path"), TABLE)
def test_a_route_is_for_those_of_its_row(callers: dict[str, Caller], method: str, path: str) -> None:
    wrong = {}
    for name, caller in callers.items():
        headers = {"authorization": caller.authorization} if caller.authorization else {}
        answer = caller.client.request(method, path.format(**VALUES), headers=headers)
        expected = caller.expected(TABLE[method, path])
        # With the right of access, what does not exist or is malformed is another refusal.
        allowed = answer.status_code not in (401, 403)
        if allowed is not (expected == 200) or (not allowed and answer.status_code != expected):
            wrong[name] = (expected, answer.status_code)
        if answer.status_code == 401:
            assert "www-authenticate" in answer.headers and "absent" not in answer.text
    assert wrong == {}


def test_the_page_is_only_for_those_who_have_signed_in(callers: dict[str, Caller]) -> None:
    for name, caller in callers.items():
        headers = {"authorization": caller.authorization} if caller.authorization else {}
        for path in ("/", "/devices", "/devices/shop-1", "/rollouts", "/audit"):
            answer = caller.client.get(path, headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (303, "/signin"), (name, path)


def test_no_role_reaches_the_device_of_another_name(callers: dict[str, Caller]) -> None:
    for name, caller in callers.items():
        headers = {"authorization": caller.authorization} if caller.authorization else {}
        status = caller.client.get(f"{BASE}/shop-2", headers=headers).status_code
        assert status == (200 if name in ("other device", "gateway") else 401), name
