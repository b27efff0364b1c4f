"""What protects a cluster of the upstream distribution by default, with its real programs on this host.

Secrets on the disk, audit log, Pod Security, and the rights of the controllers. The tests need neither machine nor
image.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from support.control_plane import RELEASES, SERVER, ControlPlane, wait_for, write_settings
from support.pod_security import assert_privileged_pods_only_in_kube_system

from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.paths import Paths

VERSION = RELEASES[0].version
SECRETS = "/api/v1/namespaces/default/secrets"


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    plane = ControlPlane(tmp_path_factory.mktemp("plane"))
    write_settings(plane.root, SERVER, {"pod_security": "baseline"})
    return plane


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ApiServer]:
    with ExitStack() as stack:
        admin, _ = stack.enter_context(plane.run_version(VERSION))
        stack.enter_context(plane.run_program("kube-controller-manager", VERSION))
        yield admin


def make_secret(server: ApiServer, name: str) -> None:
    server.call("POST", SECRETS, {"metadata": {"name": name}, "stringData": {"password": "hunter2"}})


def stored_secret(plane: ControlPlane, name: str) -> bytes:
    """Return what the datastore has of a Secret."""
    with closing(sqlite3.connect(plane.root / "var/lib/kubernetes/server/db/state.db")) as database:
        query = "SELECT value FROM kine WHERE name = ? ORDER BY id DESC LIMIT 1"
        (value,) = database.execute(query, (f"/registry/secrets/default/{name}",)).fetchone()
    return bytes(value)


def audit_events(plane: ControlPlane) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Paths(plane.root).audit_log.read_text().splitlines()]


def test_a_secret_is_encrypted_on_the_disk(plane: ControlPlane, server: ApiServer) -> None:
    make_secret(server, "account")
    stored = stored_secret(plane, "account")
    assert stored.startswith(b"k8s:enc:secretbox:v1:key1:") and b"hunter2" not in stored
    assert server.call("GET", f"{SECRETS}/account")["data"] == {"password": "aHVudGVyMg=="}


def test_the_audit_log_says_who_has_done_what_but_not_with_which_contents(
    plane: ControlPlane, server: ApiServer
) -> None:
    make_secret(server, "audited")
    server.call("GET", f"{SECRETS}/audited")
    by_verb = {
        event["verb"]: event for event in audit_events(plane) if event.get("objectRef", {}).get("name") == "audited"
    }
    assert by_verb.keys() == {"create", "get"}
    assert by_verb["create"]["user"]["username"] == "admin"
    assert by_verb["create"]["responseStatus"]["code"] == 201
    assert "hunter2" not in Paths(plane.root).audit_log.read_text()


def test_each_controller_has_only_its_own_rights(plane: ControlPlane, server: ApiServer) -> None:
    def users() -> set[str]:
        return {event["user"]["username"] for event in audit_events(plane)}

    creator = "system:serviceaccount:kube-system:service-account-controller"
    wait_for(lambda: creator in users(), "the controller that creates service accounts")
    certificate = json.loads((plane.root / "run/edge-osbuild/kubernetes/pki.json").read_text())["kubeconfigs"]
    groups = {entry["user"]: entry["organizations"] for entry in certificate}
    assert groups["system:kube-controller-manager"] == []


def test_a_pod_beyond_the_pod_security_level_is_refused_except_in_kube_system(server: ApiServer) -> None:
    assert_privileged_pods_only_in_kube_system(server)
