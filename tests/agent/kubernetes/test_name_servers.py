"""Pods ask systemd-resolved of their node, which knows the name servers of the moment."""

import subprocess
from pathlib import Path

import pytest

from osbuild.agent.kubernetes.name_servers import write_resolv_conf
from osbuild.agent.kubernetes.paths import Paths
from osbuild.host import paths as places
from osbuild.shared.node_settings import NodeSettings

SCRIPT = places.overlays_folder() / "kubernetes/usr/lib/edge-osbuild/pod-search"
SIX = {"cluster-cidr": "fd00:42::/56", "service-cidr": "fd00:43::/112"}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """Paths of an image with systemd-resolved, which knows neither name servers nor domains."""
    unit = tmp_path / "usr/lib/systemd/system/systemd-resolved.service"
    found = Paths(tmp_path)
    for path in (unit, found.resolved_servers, found.pod_resolv_conf):
        path.parent.mkdir(parents=True)
    unit.touch()
    found.resolved_servers.write_text("# no DNS servers known\nsearch .\n")
    return found


def test_pods_have_a_name_server_while_the_node_has_none(paths: Paths) -> None:
    write_resolv_conf(NodeSettings(role="server"), paths)
    assert Path(paths.resolv_conf).read_text() == "nameserver 203.0.113.254\n"
    assert paths.pod_resolv_conf.stat().st_mode & 0o777 == 0o644
    write_resolv_conf(NodeSettings(role="server", config=SIX), paths)
    assert Path(paths.resolv_conf).read_text() == "nameserver 2001:db8:203:113::254\n"


def test_pods_have_the_search_domains_of_the_node(paths: Paths) -> None:
    paths.resolved_servers.write_text("nameserver 192.0.2.53\nsearch site.example other.example\n")
    write_resolv_conf(NodeSettings(role="agent"), paths)
    expected = "nameserver 203.0.113.254\nsearch site.example other.example\n"
    assert paths.pod_resolv_conf.read_text() == expected
    for text, domains in (("search .\n", ""), ("nameserver 192.0.2.1\nsearch new.example\n", "search new.example\n")):
        paths.resolved_servers.write_text(text)
        subprocess.run([SCRIPT, paths.root], check=True)
        assert paths.pod_resolv_conf.read_text() == f"nameserver 203.0.113.254\n{domains}"


def test_nothing_is_written_without_systemd_resolved(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_resolv_conf(NodeSettings(role="server"), paths)
    assert paths.resolv_conf == "/etc/resolv.conf" and not paths.run.exists()


def test_search_domains_are_copied_only_where_there_is_a_file_for_pods(paths: Paths) -> None:
    subprocess.run([SCRIPT, paths.root], check=True)
    assert not paths.pod_resolv_conf.exists()
