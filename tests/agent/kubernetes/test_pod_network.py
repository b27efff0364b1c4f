"""The pod network and the add-ons of the upstream distribution: the files that its programs read."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.kubernetes import addons, pod_network
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


def test_a_profile_may_bring_its_own_network(paths: Paths) -> None:
    pod_network.write_pod_network(NodeSettings(role="server"), paths)
    own = NodeSettings(role="server", config={"flannel-backend": "none"})
    assert pod_network.write_pod_network(own, paths) is None
    assert not paths.cni_config.exists()


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
    config = {"cluster-dns": "10.43.0.53", "cluster-domain": "edge.example"}
    written = addons.write_addons(NodeSettings(role="server", config=config), paths)
    assert [path.stem for path in written] == ["coredns", "local-storage", "metrics-server"]
    text = written[0].read_text()
    assert "clusterIP: 10.43.0.53" in text and "kubernetes edge.example " in text
    assert all("%{" not in path.read_text() for path in written)
    left = addons.write_addons(NodeSettings(role="server", disable=("metrics-server", "traefik")), paths)
    assert [path.stem for path in left] == ["coredns", "local-storage"]
    assert sorted(path.stem for path in (paths.run / "addons").iterdir()) == ["coredns", "local-storage"]
