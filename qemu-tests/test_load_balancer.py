"""Addresses of services of type LoadBalancer, with a real API server on this host. The tests depend on their order."""

import subprocess
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest
from support.control_plane import NODE, RELEASES, ControlPlane, make_node, wait_for, write_settings
from test_manifests import apply

from osbuild.agent.kubernetes import api, prepare
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.readiness import read_kubeconfig
from osbuild.kubernetes.addon_images import MANIFESTS
from osbuild.shared.node_settings import STABLE_ADDRESS

VERSION = RELEASES[0].version
PROGRAM = "edge-load-balancer"
SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
CONFIG = {"node-name": NODE, "kube-apiserver-arg": ["bind-address=127.0.0.1"]}
RANGES = {"cluster-cidr": "10.42.0.0/16,fd00:42::/56", "service-cidr": "10.43.0.0/16,fd00:43::/112"}
BALANCED = {"role": "server", "load_balancer": True, "config": {**CONFIG, **RANGES}}
ONE = {"InternalIP": ["192.0.2.1", "2001:db8::1"]}
TWO = {"InternalIP": ["192.0.2.2", "2001:db8::2"]}
ENABLE = "svccontroller.k3s.cattle.io/enablelb"
POOL = "svccontroller.k3s.cattle.io/lbpool"
Address = dict[str, list[str]]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    plane = ControlPlane(tmp_path_factory.mktemp("plane"))
    write_settings(plane.root, BALANCED)
    return plane


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ApiServer]:
    """The API server with two nodes. The rights of the load balancer are those of its add-on."""
    with plane.run_version(VERSION) as (admin, _):
        assert apply(plane, MANIFESTS / "servicelb.yaml").returncode == 0
        for name, addresses in (("one", ONE), ("two", TWO)):
            make_node(admin, name)
            set_addresses(admin, name, addresses)
        yield admin


@pytest.fixture
def balancer(plane: ControlPlane, server: ApiServer) -> Iterator[subprocess.Popen[bytes]]:
    with plane.run_program(PROGRAM, VERSION) as process:
        yield process


@pytest.fixture(autouse=True)
def clean(server: ApiServer) -> Iterator[None]:
    """Remove the services, labels, taints and conditions of a test."""
    yield
    for service in server.call("GET", SERVICES)["items"]:
        if (name := service["metadata"]["name"]) != "kubernetes":
            server.call("DELETE", f"{SERVICES}/{name}")
    for name, addresses in (("one", ONE), ("two", TWO)):
        metadata = {"labels": {ENABLE: None, POOL: None}, "annotations": None}
        patch_node(server, name, {"metadata": metadata, "spec": {"taints": None}})
        set_addresses(server, name, addresses)


def patch_node(server: ApiServer, name: str, content: dict[str, Any]) -> None:
    server.call("PATCH", f"/api/v1/nodes/{name}", content, kind=api.MERGE_PATCH)


def set_addresses(server: ApiServer, name: str, addresses: Address, *, ready: bool = True) -> None:
    listed = [{"type": kind, "address": address} for kind, texts in addresses.items() for address in texts]
    conditions = [{"type": "Ready", "status": "True" if ready else "Unknown"}]
    status = {"status": {"addresses": listed, "conditions": conditions}}
    server.call("PATCH", f"/api/v1/nodes/{name}/status", status, kind=api.MERGE_PATCH)


def make_service(server: ApiServer, name: str, *, port: int = 80, **spec: Any) -> None:
    """Create a service of type LoadBalancer. `spec` has further fields; `labels` are not one of them."""
    metadata = {"name": name, "labels": spec.pop("labels", {})}
    ports = [{"port": port, "protocol": spec.pop("protocol", "TCP")}]
    content = {"type": "LoadBalancer", "selector": {"app": name}, "ports": ports, **spec}
    server.call("POST", SERVICES, {"metadata": metadata, "spec": content})


def addresses(server: ApiServer, name: str) -> list[str]:
    status = server.call("GET", f"{SERVICES}/{name}")["status"]["loadBalancer"]
    return [entry["ip"] for entry in status.get("ingress", [])]


def wait_addresses(server: ApiServer, name: str, *expected: str) -> None:
    wait_for(lambda: addresses(server, name) == [*expected], f"{name}: {expected}", 60)


def warnings(server: ApiServer, name: str) -> list[str]:
    events = server.call("GET", "/api/v1/namespaces/default/events")["items"]
    return [item["message"] for item in events if item["involvedObject"]["name"] == name and item["type"] == "Warning"]


@pytest.mark.usefixtures("balancer")
def test_a_service_has_the_addresses_of_all_nodes_of_its_families(server: ApiServer) -> None:
    make_service(server, "web")
    make_service(server, "six", port=81, ipFamilies=["IPv6"])
    make_service(server, "both", port=82, ipFamilyPolicy="RequireDualStack")
    wait_addresses(server, "web", "192.0.2.1", "192.0.2.2")
    wait_addresses(server, "six", "2001:db8::1", "2001:db8::2")
    wait_addresses(server, "both", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2")
    server.call("PATCH", f"{SERVICES}/web", {"spec": {"type": "ClusterIP"}}, kind=api.MERGE_PATCH)
    wait_addresses(server, "web")


@pytest.mark.usefixtures("balancer")
def test_a_node_that_is_not_ready_or_repels_pods_is_left_out(server: ApiServer) -> None:
    make_service(server, "web")
    wait_addresses(server, "web", "192.0.2.1", "192.0.2.2")
    set_addresses(server, "two", TWO, ready=False)
    wait_addresses(server, "web", "192.0.2.1")
    set_addresses(server, "two", {"InternalIP": ["192.0.2.3"]})
    wait_addresses(server, "web", "192.0.2.1", "192.0.2.3")
    server_taint = {"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}
    patch_node(server, "one", {"spec": {"taints": [server_taint]}})
    patch_node(server, "two", {"spec": {"taints": [{"key": "example.com/slow", "effect": "NoSchedule"}]}})
    wait_addresses(server, "web", "192.0.2.1")


@pytest.mark.usefixtures("balancer")
def test_external_addresses_come_first(server: ApiServer) -> None:
    make_service(server, "web")
    set_addresses(server, "two", {**TWO, "ExternalIP": ["198.51.100.2"]})
    wait_addresses(server, "web", "198.51.100.2", "192.0.2.1", "192.0.2.2")
    patch_node(server, "one", {"metadata": {"annotations": {"k3s.io/external-ip": "198.51.100.1,2001:db8:1::1"}}})
    wait_addresses(server, "web", "198.51.100.1", "198.51.100.2", "192.0.2.1", "192.0.2.2")


@pytest.mark.usefixtures("balancer")
def test_the_addresses_of_a_node_replace_one_that_only_the_node_reaches(server: ApiServer) -> None:
    make_service(server, "web")
    set_addresses(server, "one", {"InternalIP": [STABLE_ADDRESS]})
    wait_addresses(server, "web", "192.0.2.2", STABLE_ADDRESS)  # while the node has no other
    own = {"edge-osbuild/addresses": "192.0.2.7,192.0.2.8,2001:db8::7"}
    patch_node(server, "one", {"metadata": {"annotations": own}})
    wait_addresses(server, "web", "192.0.2.2", "192.0.2.7", "192.0.2.8")


@pytest.mark.usefixtures("balancer")
def test_only_labelled_nodes_are_used_if_there_are_any(server: ApiServer) -> None:
    make_service(server, "web")
    make_service(server, "pooled", port=81, labels={POOL: "till"})
    wait_addresses(server, "pooled", "192.0.2.1", "192.0.2.2")
    patch_node(server, "one", {"metadata": {"labels": {ENABLE: "true"}}})
    patch_node(server, "two", {"metadata": {"labels": {ENABLE: "true", POOL: "till"}}})
    wait_addresses(server, "pooled", "192.0.2.2")
    wait_addresses(server, "web", "192.0.2.1", "192.0.2.2")
    patch_node(server, "two", {"metadata": {"labels": {ENABLE: "false"}}})
    wait_addresses(server, "web", "192.0.2.1")
    wait_addresses(server, "pooled")


@pytest.mark.usefixtures("balancer")
def test_a_port_belongs_to_one_service_until_that_is_deleted(server: ApiServer) -> None:
    make_service(server, "first")
    wait_addresses(server, "first", "192.0.2.1", "192.0.2.2")
    make_service(server, "second")
    make_service(server, "datagrams", protocol="UDP")
    wait_addresses(server, "datagrams", "192.0.2.1", "192.0.2.2")
    wait_for(lambda: warnings(server, "second"), "a warning", 30)
    assert warnings(server, "second") == ["Port 80/TCP of node two is taken by default/first"]
    assert addresses(server, "second") == []
    server.call("DELETE", f"{SERVICES}/first")
    wait_addresses(server, "second", "192.0.2.1", "192.0.2.2")


@pytest.mark.usefixtures("balancer")
def test_the_ports_of_the_cluster_are_not_given_away(server: ApiServer) -> None:
    make_service(server, "api", port=6443)
    make_service(server, "web")
    wait_addresses(server, "web", "192.0.2.1", "192.0.2.2")
    wait_for(lambda: warnings(server, "api"), "a warning", 30)
    assert warnings(server, "api") == ["Port 6443/TCP of node two is taken by the API server"]
    assert addresses(server, "api") == []


@pytest.mark.usefixtures("balancer")
def test_a_service_of_local_traffic_has_the_nodes_with_its_ready_pods(server: ApiServer) -> None:
    make_service(server, "local", externalTrafficPolicy="Local")
    endpoint = {"addresses": ["10.42.1.2"], "nodeName": "two", "targetRef": {"kind": "Pod", "name": "p"}}
    content = {
        "metadata": {"name": "local-x", "labels": {"kubernetes.io/service-name": "local"}},
        "addressType": "IPv4",
        "endpoints": [{**endpoint, "conditions": {"ready": True}}],
    }
    server.call("POST", SLICES, content)
    wait_addresses(server, "local", "192.0.2.2")
    gone = {"endpoints": [{**endpoint, "conditions": {"ready": False}}]}
    server.call("PATCH", f"{SLICES}/local-x", gone, kind=api.MERGE_PATCH)
    wait_addresses(server, "local")
    server.call("DELETE", f"{SLICES}/local-x")


@pytest.mark.usefixtures("balancer")
def test_a_service_with_a_class_belongs_to_another_load_balancer(server: ApiServer) -> None:
    make_service(server, "theirs", loadBalancerClass="example.com/other")
    make_service(server, "ours")
    wait_addresses(server, "ours", "192.0.2.1", "192.0.2.2")
    assert addresses(server, "theirs") == []


def test_the_program_has_only_the_rights_that_it_needs(plane: ControlPlane, server: ApiServer) -> None:
    make_service(server, "web")
    address, context = read_kubeconfig(Paths(plane.root).data / "load-balancer.conf")
    limited = ApiServer(address, context)
    assert limited.call("GET", f"{SERVICES}/web")
    for method, path, body in (
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/pods", None),
        ("PATCH", f"{SERVICES}/web", {"spec": {"type": "ClusterIP"}}),
        ("DELETE", f"{SERVICES}/web", None),
        ("PATCH", "/api/v1/nodes/one", {"metadata": {"labels": {ENABLE: "true"}}}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            limited.call(method, path, body, kind=api.MERGE_PATCH)


def test_without_the_key_the_assigned_addresses_are_removed(plane: ControlPlane, server: ApiServer) -> None:
    make_service(server, "web")
    make_service(server, "theirs", loadBalancerClass="example.com/other")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}]}}}
    server.call("PATCH", f"{SERVICES}/theirs/status", status, kind=api.MERGE_PATCH)
    with plane.run_program(PROGRAM, VERSION):
        wait_addresses(server, "web", "192.0.2.1", "192.0.2.2")
    write_settings(plane.root, {**BALANCED, "load_balancer": False})
    prepare.prepare_node(plane.root)
    with plane.run_program(PROGRAM, VERSION):
        wait_addresses(server, "web")
        assert addresses(server, "theirs") == ["198.51.100.9"]
