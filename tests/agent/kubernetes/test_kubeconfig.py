"""The administrator's kubeconfig on a server node, which a group may read."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.kubernetes import kubeconfig, prepare
from osbuild.agent.kubernetes import pki as keys
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import IMAGE_FILE
from osbuild.agent.system import System
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.node_settings import NodeSettings

OVERLAY = paths.overlays_folder() / "kubernetes"


def make_root(folder: Path, *, group: str = "kubernetes") -> Path:
    """Make a root with a kubeconfig that `edge-pki` has written, and with a group of this process."""
    files = {
        "etc/group": f"root:x:0:\n{group}:x:{os.getgid()}:dana\n",
        "var/lib/kubernetes/admin.conf": "kind: Config\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("config", "group", "mode"),
    [
        ({}, "kubernetes", 0o640),
        ({"write-kubeconfig-group": "operators"}, "operators", 0o640),
        ({"write-kubeconfig-mode": "0644"}, "kubernetes", 0o644),
        ({"write-kubeconfig-mode": 600}, "kubernetes", 0o600),
    ],
)
def test_a_group_may_read_the_kubeconfig_with_the_names_of_k3s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: Mapping[str, Any], group: str, mode: int
) -> None:
    root = make_root(tmp_path, group=group)
    kubeconfig.publish_kubeconfig(NodeSettings(role="server", config=dict(config)), Paths(root))
    published = root / "run/kubernetes/admin.conf"
    assert published.read_text() == "kind: Config\n"
    assert (published.stat().st_gid, published.stat().st_mode & 0o777) == (os.getgid(), mode)
    assert capsys.readouterr().out == ""


def test_a_group_that_does_not_exist_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_root(tmp_path)
    settings = NodeSettings(role="server", config={"write-kubeconfig-group": "operators"})
    kubeconfig.publish_kubeconfig(settings, Paths(root))
    assert "found no group `operators`" in capsys.readouterr().out
    assert (root / "run/kubernetes/admin.conf").exists()


@pytest.mark.parametrize("name", ["staff", "50"])
def test_a_group_is_found_by_name_or_id(tmp_path: Path, name: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\nstaff:x:50:\n50x:x:51:\n")
    assert kubeconfig.find_group(System(tmp_path), name) == 50
    assert kubeconfig.find_group(System(tmp_path), "none") is None


def test_a_server_node_publishes_the_kubeconfig_that_the_link_in_etc_names(tmp_path: Path) -> None:
    for name, text in ((IMAGE_FILE, json.dumps({"role": "server"})), ("etc/hosts", "127.0.0.1\tlocalhost\n")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    program = upstream_programs.build_small_program("pki", Architecture.native(), Cache())
    (tmp_path / keys.PROGRAM).symlink_to(program)
    prepare.prepare_node(tmp_path)
    link = (OVERLAY / "etc/kubernetes/admin.conf").readlink()
    published = tmp_path / str(link).lstrip("/")
    assert published.read_bytes() == (tmp_path / "var/lib/kubernetes/admin.conf").read_bytes()


def test_k3s_writes_the_kubeconfig_that_the_link_in_etc_names(tmp_path: Path) -> None:
    (tmp_path / IMAGE_FILE).parent.mkdir(parents=True)
    (tmp_path / IMAGE_FILE).write_text(json.dumps({"role": "server"}))
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/k3s").touch()
    prepare.prepare_node(tmp_path)
    config = json.loads((tmp_path / "etc/rancher/k3s/config.yaml").read_text())
    assert config["write-kubeconfig"] == str((OVERLAY / "etc/kubernetes/admin.conf").readlink())
    assert (config["write-kubeconfig-group"], config["write-kubeconfig-mode"]) == ("kubernetes", "0640")
