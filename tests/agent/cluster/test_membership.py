"""The node leaves its cluster and comes back: cordon, drain and uncordon, against an API server of the tests' own.

It does what matters of the real one: TLS with client certificates, merge patches with their precondition, and evictions
that disruption budgets refuse. The real one is used in qemu-tests.
"""

import datetime
import http.server
import ipaddress
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.agent.cluster import cluster_data, cordon, drain, membership, snapshot, update_turn
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import datastore
from osbuild.agent.kubernetes.settings import IMAGE_FILE
from osbuild.agent.system import System
from tests.support.kine import start_kine

VERSION = "v1.35.4"
DATABASE = "var/lib/kubernetes/server/db/state.db"


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that is its own authority, for both ends, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return folder / "cert.pem", folder / "key.pem"


@dataclass
class Cluster:
    """What the API server has. `stubborn` pods don't go when evicted, `budgeted` ones can't be, by name."""

    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    stubborn: set[str] = field(default_factory=set)
    budgeted: set[str] = field(default_factory=set)
    interfering: int = 0  # changes by others that come between a look and a patch
    down: bool = False
    lease: dict[str, Any] = field(default_factory=lambda: {"metadata": {"resourceVersion": "1"}, "spec": {}})

    def add_node(self, name: str, **spec: Any) -> None:
        status = {"conditions": [{"type": "Ready", "status": "True"}]}
        meta = {"name": name, "resourceVersion": "1", "annotations": {"other": "kept"}}
        self.nodes[name] = {"metadata": meta, "spec": spec, "status": status}

    def add_pod(self, name: str, kind: str | None = "ReplicaSet", phase: str = "Running", **meta: Any) -> None:
        owners = [{"kind": kind, "name": "owner", "controller": True}] if kind else []
        body = {"name": name, "namespace": "default", "ownerReferences": owners, **meta}
        self.pods[name] = {"metadata": body, "spec": {"nodeName": "node-1"}, "status": {"phase": phase}}

    def answer(self, method: str, url: str, body: Any) -> tuple[int, Any]:
        path, _, query = url.partition("?")
        segments = path.strip("/").split("/")
        if self.down:
            return 503, {"message": "storage is (re)initializing"}
        if method == "GET" and path == "/api/v1/nodes":
            return 200, {"items": list(self.nodes.values())}
        if segments[:3] == ["api", "v1", "nodes"]:
            return self.one_node(method, segments[3], body)
        if path == f"{update_turn.LEASES}/{update_turn.LEASE}":
            if method == "PATCH":
                merge(self.lease, body)
            return 200, self.lease
        if method == "GET" and path == "/api/v1/pods":
            assert urllib.parse.parse_qs(query) == {"fieldSelector": ["spec.nodeName=node-1"]}
            return 200, {"items": list(self.pods.values())}
        if method == "POST" and segments[-1] == "eviction" and body["kind"] == "Eviction":
            return self.evict(segments[-2])
        return 404, {"message": f"no {method} {path} here"}

    def one_node(self, method: str, name: str, body: Any) -> tuple[int, Any]:
        node = self.nodes.get(name)
        if node is None:
            return 404, {"message": f'nodes "{name}" not found'}
        meta = node["metadata"]
        if method == "PATCH":
            if self.interfering:
                self.interfering -= 1
                meta["resourceVersion"] += "1"
            if body["metadata"].pop("resourceVersion") != meta["resourceVersion"]:
                return 409, {"message": "the object has been modified"}
            merge(node, body)
            meta["resourceVersion"] += "1"
        return 200, json.loads(json.dumps(node))

    def evict(self, name: str) -> tuple[int, Any]:
        if name in self.budgeted:
            return 429, {"message": "Cannot evict pod as it would violate the pod's disruption budget."}
        if name in self.stubborn:
            if "deletionTimestamp" in self.pods[name]["metadata"]:
                return 500, {"message": "it was asked to go already"}
            self.pods[name]["metadata"]["deletionTimestamp"] = "now"
        else:
            del self.pods[name]
        return 201, {"status": "Success"}


def merge(goal: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7386."""
    for key, value in patch.items():
        if value is None:
            goal.pop(key, None)
        elif isinstance(value, dict):
            merge(goal.setdefault(key, {}), value)
        else:
            goal[key] = value


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with this node alone, its API server, and this node's files below `tmp_path`/root."""
    cluster = Cluster()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            code, content = cluster.answer(self.command, self.path, body)
            data = json.dumps(content).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    chain, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    context.load_verify_locations(chain)
    context.verify_mode = ssl.CERT_REQUIRED
    cluster.add_node("node-1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        root = tmp_path / "root"
        place(root, IMAGE_FILE, json.dumps({"role": "server", "config": {"node-name": "node-1"}}))
        place(root, "etc/kubernetes/admin.conf", kubeconfig(running.server_address[1], chain, key))
        image = {"kubernetes": {"role": "server", "distribution": "upstream", "version": VERSION}}
        place(root, "usr/lib/edge-osbuild/image.json", json.dumps(image))
        with start_kine(root / DATABASE) as kine:
            kine.put("/registry/configmaps/default/x", b"1")
        yield cluster
        running.shutdown()
        thread.join()


def kubeconfig(port: int, chain: Path, key: Path) -> str:
    return (
        f"clusters:\n- cluster:\n    certificate-authority: {chain}\n    server: https://127.0.0.1:{port}\n"
        f"users:\n- user:\n    client-certificate: {chain}\n    client-key: {key}\n"
    )


def place(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "root")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "PAUSE", 0.05)
    monkeypatch.setattr(membership, "PAUSE", 0.05)


def leave(system: System, deadline: float = 5) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    return cluster_data.prepare_reboot(system, deadline, lines.append), lines


def test_a_single_node_is_cordoned_and_keeps_its_pods(cluster: Cluster, system: System) -> None:
    cluster.add_pod("web")
    result, lines = leave(system)
    assert result["cordoned"] and "drain" not in result
    assert cluster.nodes["node-1"]["spec"] == {"unschedulable": True}
    assert cluster.pods.keys() == {"web"}
    assert [one.name for one in snapshot.list_snapshots(system)] == [result["snapshot"]]
    assert any("no other node" in line for line in lines)


def test_after_a_good_boot_the_node_is_uncordoned(cluster: Cluster, system: System) -> None:
    before = json.loads(json.dumps(cluster.nodes["node-1"]))
    leave(system)
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    del before["metadata"]["resourceVersion"], cluster.nodes["node-1"]["metadata"]["resourceVersion"]
    assert cluster.nodes["node-1"] == before
    assert not cordon.has_cordon_mark(system)
    assert cluster_data.rejoin(system) == {"uncordoned": False}


def test_the_mark_is_removed_after_the_uncordoning_is_on_the_disk(
    cluster: Cluster, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has written that, and does not have it on the disk yet."""
    leave(system)
    log = system.path(f"{datastore.FILE}-wal")
    log.touch()
    flushed: dict[str, tuple[bool, bool]] = {}

    def flush(path: Path) -> None:
        flushed[path.name] = cordon.has_cordon_mark(system), "unschedulable" in cluster.nodes["node-1"]["spec"]

    monkeypatch.setattr(datastore, "sync_path", flush)
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    assert flushed[log.name] == (True, False)
    assert not cordon.has_cordon_mark(system)


def test_an_agent_node_whose_server_lost_the_uncordoning_is_uncordoned_at_the_next_boot(
    cluster: Cluster, system: System
) -> None:
    leave(system)
    system.path(datastore.FILE).unlink()  # it is on the server, which is elsewhere
    cordoned = json.loads(json.dumps(cluster.nodes["node-1"]))
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    cluster.nodes["node-1"] = cordoned  # the server's power was cut
    assert cordon.has_cordon_mark(system), "edge-kubernetes-uncordon.service would not run"
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    assert cluster_data.rejoin(system) == {"uncordoned": False}
    assert not cordon.has_cordon_mark(system), "it looks once more, not for ever"


def test_two_concurrent_uncordonings_both_succeed(
    cluster: Cluster, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "exists", lambda path: True)  # as it was a moment ago
    cordon.remove_cordon_mark(system)
    assert cluster_data.rejoin(system, patience=0) == {"uncordoned": False}


def test_a_node_that_somebody_else_cordoned_stays_cordoned(cluster: Cluster, system: System) -> None:
    cluster.nodes["node-1"]["spec"]["unschedulable"] = True
    assert leave(system)[0]["cordoned"] is False
    assert cluster_data.rejoin(system) == {"uncordoned": False}
    assert cluster.nodes["node-1"]["spec"] == {"unschedulable": True}


def test_concurrent_changes_of_the_node_are_detected(cluster: Cluster, system: System) -> None:
    cluster.interfering = 3
    assert leave(system)[0]["cordoned"]
    cluster.interfering = 3
    assert cluster_data.rejoin(system) == {"uncordoned": True}
    cluster.interfering = 10**6
    assert "is changed too often" in leave(system, deadline=0.2)[0]["problem"]


def test_an_interrupted_preparation_is_undone_at_the_next_boot(cluster: Cluster, system: System) -> None:
    leave(system)
    leave(system)  # the update is tried again
    assert cordon.has_cordon_mark(system)
    assert cluster_data.rejoin(System(system.root)) == {"uncordoned": True}


def test_without_a_snapshot_the_update_is_refused_and_the_node_is_uncordoned(
    cluster: Cluster, system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "SPARE_BYTES", 2**60)
    with pytest.raises(Problem, match=r"no snapshot of the cluster data can be taken: .* are free"):
        leave(system)
    assert "unschedulable" not in cluster.nodes["node-1"]["spec"]
    assert not cordon.has_cordon_mark(system)


def test_a_cluster_that_does_not_answer_does_not_prevent_an_update(cluster: Cluster, system: System) -> None:
    cluster.down = True
    result, lines = leave(system, deadline=0.3)
    assert result["seconds"] < 5
    assert "503: storage is (re)initializing" in result["problem"]
    assert result["snapshot"] and any("the node is not drained" in line for line in lines)
    assert cluster_data.rejoin(system, patience=0) == {}  # nothing to be undone


def test_requests_to_a_restarting_server_are_repeated(cluster: Cluster, system: System) -> None:
    cluster.add_node("node-2")
    cluster.add_pod("web")
    answer, requests = cluster.answer, []

    def starting(method: str, url: str, body: Any) -> tuple[int, Any]:
        requests.append((method, url))
        cluster.down = requests.count((method, url)) == 1  # fails once, whatever it is asked
        return answer(method, url, body)

    cluster.answer = starting  # type: ignore[method-assign]
    result, _ = leave(system, deadline=60)
    assert result["cordoned"] and result["drain"] == {"moved": ["default/web"], "left": {}} and result["seconds"] < 30
    assert "problem" not in result


def test_a_node_that_cannot_be_uncordoned_now_is_uncordoned_later(cluster: Cluster, system: System) -> None:
    leave(system)
    cluster.down = True
    assert "still cordoned" in cluster_data.rejoin(system, patience=0)["problem"]
    assert cordon.has_cordon_mark(system)
    cluster.down = False
    assert cluster_data.rejoin(system) == {"uncordoned": True}


def test_a_node_that_was_removed_from_its_cluster_needs_no_uncordoning(cluster: Cluster, system: System) -> None:
    leave(system)
    del cluster.nodes["node-1"]
    assert cluster_data.rejoin(system) == {"uncordoned": False}
    assert not cordon.has_cordon_mark(system)


class PowerCut(BaseException):
    pass


def test_a_server_that_loses_power_at_the_beginning_of_its_turn_gives_it_back_at_the_next_boot(
    cluster: Cluster, system: System
) -> None:
    """Otherwise the other servers would wait until the Lease expires."""
    place(
        system.root, IMAGE_FILE, json.dumps({"role": "server", "config": {"node-name": "node-1", "cluster-init": True}})
    )
    cluster.add_node("node-2")
    answer = cluster.answer

    def answer_until_the_lease_is_taken(method: str, url: str, body: Any) -> tuple[int, Any]:
        result = answer(method, url, body)
        cluster.down = cluster.down or (method == "PATCH" and url.endswith(update_turn.LEASE))
        return result

    def cut_power(message: str) -> None:
        raise PowerCut(message)

    cluster.answer = answer_until_the_lease_is_taken  # type: ignore[method-assign]
    with pytest.raises(PowerCut):
        cluster_data.prepare_reboot(system, 5, cut_power)
    assert cluster.lease["spec"]["holderIdentity"] == "node-1"
    assert cordon.has_cordon_mark(system), "edge-kubernetes-uncordon.service would not run"
    cluster.answer, cluster.down = answer, False  # type: ignore[method-assign]
    assert cluster_data.rejoin(system) == {"uncordoned": False}
    assert "holderIdentity" not in cluster.lease["spec"]
    assert not cordon.has_cordon_mark(system)


def test_pods_that_can_run_on_another_node_are_evicted(cluster: Cluster, system: System) -> None:
    cluster.add_node("node-2")
    for name, kind in (("web", "ReplicaSet"), ("db", "StatefulSet"), ("log", "DaemonSet"), ("alone", None)):
        cluster.add_pod(name, kind)
    cluster.add_pod("proxy", "Node", annotations={drain.MIRROR: "x"})
    cluster.add_pod("done", "Job", "Succeeded")
    result, _ = leave(system)
    assert result["drain"] == {"moved": ["default/db", "default/web"], "left": {}}
    assert cluster.pods.keys() == {"log", "alone", "proxy", "done"}


@pytest.mark.parametrize(
    "unfit",
    [
        {"unschedulable": True},
        {"taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]},
    ],
)
def test_nodes_that_accept_no_pods_are_not_drain_targets(
    cluster: Cluster, system: System, unfit: dict[str, Any]
) -> None:
    cluster.add_node("node-2", **unfit)
    cluster.add_node("node-3")
    cluster.nodes["node-3"]["status"]["conditions"][0]["status"] = "Unknown"
    cluster.add_pod("web")
    assert "drain" not in leave(system)[0]
    assert cluster.pods.keys() == {"web"}


def test_a_drain_ends_at_its_deadline_and_reports_remaining_pods(cluster: Cluster, system: System) -> None:
    cluster.add_node("node-2")
    for name in ("web", "held", "slow"):
        cluster.add_pod(name)
    cluster.budgeted, cluster.stubborn = {"held"}, {"slow"}
    result, lines = leave(system, deadline=0.5)
    assert result["drain"]["moved"] == ["default/web"]
    assert "disruption budget" in result["drain"]["left"]["default/held"]
    assert result["drain"]["left"]["default/slow"] == "still stopping"
    assert result["seconds"] < 5 and result["snapshot"]
    assert any("default/held stays on the node" in line for line in lines)


def test_a_drain_ends_early_if_the_disruption_budget_allows_it(cluster: Cluster, system: System) -> None:
    cluster.add_node("node-2")
    cluster.add_pod("held")
    cluster.budgeted = {"held"}
    threading.Timer(0.3, cluster.budgeted.clear).start()
    result, _ = leave(system, deadline=60)
    assert result["drain"] == {"moved": ["default/held"], "left": {}} and result["seconds"] < 30


def test_an_agent_node_drains_itself_and_takes_no_snapshot(cluster: Cluster, system: System) -> None:
    place(system.root, IMAGE_FILE, json.dumps(
        {"role": "agent", "server": "https://x", "token": "t", "config": {"node-name": "node-1"}}
    ))  # fmt: skip
    (system.root / "var/lib/kubernetes/kubelet.conf").write_text(
        (system.root / "etc/kubernetes/admin.conf").read_text()
    )
    (system.root / "etc/kubernetes/admin.conf").unlink()
    cluster.add_pod("web")
    result, _ = leave(system)
    assert result["cordoned"] and result["drain"] == {"moved": ["default/web"], "left": {}}
    assert "snapshot" not in result
    assert cluster_data.rejoin(system) == {"uncordoned": True}
