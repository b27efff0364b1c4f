"""The pod network and the add-ons of the upstream distribution: the files that its programs read."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.kubernetes import addons, kube_proxy, pod_network
from osbuild.agent.kubernetes.paths import Paths
from osbuild.kubernetes import addon_images
from osbuild.shared.node_settings import NodeSettings


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.run.mkdir(parents=True)
    found.data.mkdir(parents=True)
    return found


@pytest.mark.parametrize(
    ("backend", "kind", "mtu"),
    [(None, "vxlan", 1450), ("host-gw", "host-gw", 1500), ("wireguard-native", "wireguard", 1420)],
)
def test_the_first_server_starts_pods_before_flannel_runs(
    paths: Paths, backend: str | None, kind: str, mtu: int
) -> None:
    config = {"flannel-backend": backend} if backend else {}
    settings_file = pod_network.write_pod_network(NodeSettings(role="server", config=config), paths)
    assert settings_file
    flannel = read(Path(read(settings_file)["flannel"]))
    assert (flannel["Network"], flannel["Backend"]["Type"]) == ("10.42.0.0/16", kind)
    bridge = read(paths.cni_config)["plugins"][0]
    assert (bridge["mtu"], bridge["ipam"]["ranges"]) == (mtu, [[{"subnet": "10.42.0.0/24"}]])


def test_an_agent_node_has_a_network_only_once_it_knows_its_range(paths: Paths) -> None:
    settings = NodeSettings(role="agent", server="https://192.0.2.1:6443", token="t")
    pod_network.write_pod_network(settings, paths)
    assert not paths.cni_config.exists()
    paths.network_lease.write_text('{"ranges": ["10.42.3.0/24"], "mtu": 1400}')
    pod_network.write_pod_network(settings, paths)
    bridge = read(paths.cni_config)["plugins"][0]
    assert (bridge["mtu"], bridge["ipam"]["ranges"]) == (1400, [[{"subnet": "10.42.3.0/24"}]])


@pytest.mark.parametrize(("stored", "mtu"), [(1450, 1420), (1420, 1420), (1280, 1280), (8920, 8920)])
def test_pods_that_start_before_another_backend_runs_leave_room_for_its_headers(
    paths: Paths, stored: int, mtu: int
) -> None:
    paths.network_lease.write_text(json.dumps({"ranges": ["10.42.0.0/24"], "mtu": stored}))
    config = {"flannel-backend": "wireguard-native"}
    pod_network.write_pod_network(NodeSettings(role="server", config=config), paths)
    assert read(paths.cni_config)["plugins"][0]["mtu"] == mtu


def test_a_profile_may_bring_its_own_network(paths: Paths) -> None:
    pod_network.write_pod_network(NodeSettings(role="server"), paths)
    own = NodeSettings(role="server", config={"flannel-backend": "none"})
    assert pod_network.write_pod_network(own, paths) is None
    assert not paths.cni_config.exists()


DUAL = {"cluster-cidr": "10.42.0.0/16,fd00:42::/56", "service-cidr": "10.43.0.0/16,fd00:43::/112"}
SIX = {"cluster-cidr": "fd00:42::/56", "service-cidr": "fd00:43::/112"}


@pytest.mark.parametrize(
    ("config", "networks", "ranges", "mtu"),
    [
        (DUAL, {"EnableIPv4": True, "Network": "10.42.0.0/16", "EnableIPv6": True, "IPv6Network": "fd00:42::/56"},
         ["10.42.0.0/24", "fd00:42::/64"], 1430),
        (SIX, {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:42::/56"}, ["fd00:42::/64"], 1430),
        ({**DUAL, "flannel-backend": "host-gw"}, {"EnableIPv4": True, "EnableIPv6": True},
         ["10.42.0.0/24", "fd00:42::/64"], 1500),
    ],
)  # fmt: skip
def test_pods_get_an_address_of_each_family(
    paths: Paths, config: dict[str, Any], networks: dict[str, Any], ranges: list[str], mtu: int
) -> None:
    settings = NodeSettings(role="server", node_ip="192.0.2.1,fd00:1::1", config=config)
    settings_file = pod_network.write_pod_network(settings, paths)
    assert settings_file
    flannel = read(Path(read(settings_file)["flannel"]))
    assert {**flannel, **networks} == flannel
    assert read(settings_file)["addresses"] == ["192.0.2.1", "fd00:1::1"]
    assert read(settings_file)["service_ranges"] == config["service-cidr"].split(",")
    bridge = read(paths.cni_config)["plugins"][0]
    assert (bridge["mtu"], bridge["ipam"]["ranges"]) == (mtu, [[{"subnet": subnet}] for subnet in ranges])
    proxy = kube_proxy.kube_proxy_config(settings, paths)
    assert proxy["clusterCIDR"] == config["cluster-cidr"]
    assert proxy["nodePortAddresses"] == ["0.0.0.0/0", "::/0"][-len(ranges) :]


def test_other_nodes_use_the_external_address_only_if_the_profile_says_so(paths: Paths) -> None:
    config: dict[str, Any] = {"node-external-ip": "198.51.100.7,2001:db8::7"}
    for flag, public in ((None, ("", "")), (True, ("198.51.100.7", "2001:db8::7"))):
        settings = NodeSettings(
            role="agent", node_ip="192.0.2.5", config=config | ({"flannel-external-ip": flag} if flag else {})
        )
        settings_file = pod_network.write_pod_network(settings, paths)
        assert settings_file
        written = read(settings_file)
        assert (written["public_ip"], written["public_ipv6"]) == public
        assert written["external"] == ["198.51.100.7", "2001:db8::7"]


@pytest.mark.parametrize(("value", "enforced"), [(True, False), ("true", False), (False, True), (None, True)])
def test_network_policies_can_be_disabled(paths: Paths, value: Any, enforced: bool) -> None:
    config = {} if value is None else {"disable-network-policy": value}
    settings_file = pod_network.write_pod_network(NodeSettings(role="server", config=config), paths)
    assert settings_file and read(settings_file)["policies"] is enforced


def test_add_ons_get_the_addresses_of_the_cluster(paths: Paths) -> None:
    folder = paths.root / addons.TEMPLATES
    folder.mkdir(parents=True)
    for path in addon_images.find_manifests(()):
        text = path.read_text()
        for image in addon_images.IMAGES:
            text = text.replace(f"%{{{image.variable}}}%", "localhost/image:1")
        (folder / path.name).write_text(text)
    resolved = paths.root / "usr/lib/systemd/system/systemd-resolved.service"
    resolved.parent.mkdir(parents=True)
    resolved.touch()
    config = {"cluster-dns": "10.43.0.53", "cluster-domain": "edge.example"}
    written = addons.write_addons(NodeSettings(role="server", config=config), paths)
    assert [path.stem for path in written] == ["coredns", "local-storage", "metrics-server"]
    text = written[0].read_text()
    assert "clusterIP: 10.43.0.53" in text and "kubernetes edge.example " in text
    assert all("%{" not in path.read_text() for path in written)
    assert 'clusterIPs: ["10.43.0.53"]' in text and "ipFamilyPolicy: SingleStack" in text
    assert "forward . 203.0.113.254" in text
    for families, addresses, policy, upstream in (
        (DUAL, '["10.43.0.10", "fd00:43::a"]', "RequireDualStack", "203.0.113.254"),
        (SIX, '["fd00:43::a"]', "SingleStack", "2001:db8:203:113::254"),
    ):
        text = addons.write_addons(NodeSettings(role="server", config=families), paths)[0].read_text()
        assert f"clusterIPs: {addresses}" in text and f"ipFamilyPolicy: {policy}" in text
        assert f"forward . {upstream}" in text
    balanced = addons.write_addons(NodeSettings(role="server", load_balancer=True), paths)
    assert [path.stem for path in balanced] == ["coredns", "local-storage", "metrics-server", "servicelb"]
    charts = addons.write_addons(NodeSettings(role="server", helm=True), paths)
    assert [path.stem for path in charts] == ["coredns", "helm-controller", "local-storage", "metrics-server"]
    with_ingress = addons.write_addons(NodeSettings(role="server", load_balancer=True, ingress=True), paths)
    assert with_ingress[-1].stem == "traefik"
    left = addons.write_addons(NodeSettings(role="server", disable=("metrics-server", "traefik")), paths)
    assert [path.stem for path in left] == ["coredns", "local-storage"]
    assert sorted(path.stem for path in (paths.run / "addons").iterdir()) == ["coredns", "local-storage"]
