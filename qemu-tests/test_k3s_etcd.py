"""Snapshots of the embedded etcd of K3s, with the real program of a release on this host.

The tests depend on their order. They need neither machine nor image, and are skipped if no release is available.
"""

import urllib.error
from collections.abc import Iterator

import pytest
from support.control_plane import wait_for
from support.distributions import K3S
from support.k3s_server import K3sServer

from osbuild.agent.cluster import etcd_snapshot, snapshot_command
from osbuild.agent.cluster.etcd_snapshot import SnapshotReason
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.system import System
from osbuild.host.architecture import Architecture
from osbuild.shared.node_settings import STABLE_ADDRESS

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
SEED = {"token": "a-secret-of-servers", "node_ip": STABLE_ADDRESS}


@pytest.fixture(scope="module")
def k3s(tmp_path_factory: pytest.TempPathFactory) -> Iterator[K3sServer]:
    if reason := K3S.missing(Architecture.native()):
        pytest.skip(reason)
    server = K3sServer(tmp_path_factory.mktemp("k3s"), SEED, {"cluster-init": True, "etcd-snapshot-retention": 2})
    try:
        yield server
    finally:
        server.stop()


def create(server: ApiServer, name: str) -> None:
    wait_for(lambda: server.find("/api/v1/namespaces/default"), "no namespace")
    server.call("POST", CONFIGMAPS, {"metadata": {"name": name}})


def names(server: ApiServer) -> set[str]:
    return {item["metadata"]["name"] for item in server.call("GET", CONFIGMAPS)["items"]} - {"kube-root-ca.crt"}


def test_snapshots_are_taken_listed_and_rotated(k3s: K3sServer) -> None:
    server = k3s.start()
    create(server, "before")
    system = System(k3s.root)
    for _ in range(3):
        taken = etcd_snapshot.take_snapshot(system, SnapshotReason.UPDATE)
    assert taken.name.startswith("pre-update-node-1-") and taken.size > 100_000
    same = [entry for entry in etcd_snapshot.list_snapshots(system) if entry.reason == SnapshotReason.UPDATE]
    assert same[0] == taken and len(same) == 2
    assert snapshot_command.snapshot_lines(system, False)[0].startswith(taken.name)
    create(server, "after")


def test_a_restored_snapshot_brings_back_what_there_was(k3s: K3sServer) -> None:
    system = System(k3s.root)
    newest = etcd_snapshot.list_snapshots(system)[0].name
    k3s.stop()
    with pytest.raises(Problem, match="no snapshot other"):
        etcd_snapshot.restore_snapshot(system, "other")
    line = etcd_snapshot.restore_snapshot(system, newest)
    assert line.startswith(f"{newest} is restored; start Kubernetes here first")
    server = k3s.start()
    assert names(server) == {"before"}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        server.call("GET", f"{CONFIGMAPS}/after")
    create(server, "again")
