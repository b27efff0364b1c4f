"""Snapshots of the embedded etcd of K3s, with the real program of a release on this host.

The tests depend on their order. They need neither machine nor image, and are skipped if no release is available.
"""

import json
import urllib.error
from collections.abc import Iterator

import pytest
from support.control_plane import wait_for
from support.distributions import K3S
from support.k3s_server import K3sServer

from osbuild.agent.cluster import cluster_data, etcd_rollback, etcd_snapshot, membership, snapshot_command
from osbuild.agent.cluster.etcd_snapshot import SnapshotReason
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.versions import KubernetesVersion
from osbuild.agent.system import System
from osbuild.host.architecture import Architecture
from osbuild.shared.node_settings import STABLE_ADDRESS

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
OLD, NEW = (KubernetesVersion("k3s", f"v1.{minor}.1+k3s1") for minor in (35, 36))
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


def boot_into(k3s: K3sServer, version: KubernetesVersion) -> dict[str, object]:
    """Do what a boot of a slot with this version of K3s does to the data, before K3s starts."""
    image = {"kubernetes": {"role": "server", "distribution": version.distribution, "version": version.version}}
    path = k3s.root / "usr/lib/edge-osbuild/image.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(image))
    return cluster_data.reconcile_data(System(k3s.root)) or {}


def test_a_rollback_restores_the_etcd_of_a_single_server(k3s: K3sServer) -> None:
    system = System(k3s.root)
    boot_into(k3s, OLD)
    taken = membership.snapshot_etcd(system, OLD, print)
    assert taken
    create(k3s.server(), "of-the-newer-version")
    k3s.stop()
    assert "restored" not in boot_into(k3s, NEW)
    rollback = cluster_data.rollback_loss(system)
    assert rollback and rollback["snapshot"] == taken.name
    assert boot_into(k3s, OLD)["restored"] == rollback
    assert boot_into(k3s, OLD) == {}, "after a power cut"
    assert taken.name in etcd_rollback.restore_pending(system)
    assert etcd_rollback.restore_pending(system) == "no snapshot is to be restored"
    assert names(k3s.start()) == {"before", "again"}
