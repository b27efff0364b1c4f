"""What protects a node and its cluster by default: limits of the kubelet, encrypted Secrets, audit log, Pod Security.

The programs themselves are in `qemu-tests/test_cluster_security.py`.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import audit_log, k3s, kubelet, kubelet_limits, pod_security, secrets_encryption
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import check_settings
from osbuild.config.checks.kubelet_sysctls import KUBELET_SYSCTLS
from osbuild.config.load import load_profile
from osbuild.host import paths as places
from osbuild.shared.errors import Error
from osbuild.shared.files import FileSystemSpace
from osbuild.shared.node_settings import NodeSettings

SERVER = NodeSettings(role="server")
GIB = 2**30
PROFILE = "name: node\nversion: 1.0.0\noverlays: [base, kubernetes]\nkubernetes: {role: server%s}\n"


def node(root: Path) -> Paths:
    """A node that is prepared for the first time."""
    for name in ("run/edge-osbuild/kubernetes", "var/lib/kubernetes/server/db"):
        (root / name).mkdir(parents=True)
    return Paths(root)


def configured(option: bool) -> NodeSettings:
    return NodeSettings(role="server", config={secrets_encryption.OPTION: option})


def providers(paths: Paths, settings: NodeSettings = SERVER) -> list[str]:
    """The names of the providers that the API server gets, the one that encrypts first; empty without encryption."""
    if not (arguments := secrets_encryption.write_encryption(settings, paths)):
        return []
    (argument,) = arguments
    path = Path(argument.removeprefix("encryption-provider-config="))
    assert path.stat().st_mode & 0o777 == 0o600
    (resource,) = json.loads(path.read_text())["resources"]
    assert resource["resources"] == ["secrets"]
    return [name for provider in resource["providers"] for name in provider]


def k3s_config(paths: Paths, settings: NodeSettings = SERVER) -> dict[str, Any]:
    k3s.write_config(settings, paths)
    config: dict[str, Any] = json.loads((paths.rancher / "config.yaml").read_text())
    return config


def test_secrets_of_a_new_cluster_are_encrypted_with_a_key_that_is_kept(tmp_path: Path) -> None:
    paths = node(tmp_path)
    assert providers(paths) == ["secretbox", "identity"]
    key = paths.encryption_key.read_text()
    assert len(base64.b64decode(json.loads(key)["secret"])) == 32
    assert paths.encryption_key.stat().st_mode & 0o777 == 0o600
    (paths.data / "server/db/state.db").touch()
    assert providers(paths) == ["secretbox", "identity"]
    assert paths.encryption_key.read_text() == key


def test_secrets_of_an_existing_cluster_stay_readable_for_an_older_image(tmp_path: Path) -> None:
    paths = node(tmp_path)
    (paths.data / "server/db/state.db").touch()
    assert providers(paths) == [] and not paths.encryption_key.exists()
    assert providers(paths, configured(True)) == ["secretbox", "identity"], "unless the profile asks for it"


def test_encrypted_secrets_stay_readable_if_encryption_is_turned_off(tmp_path: Path) -> None:
    paths = node(tmp_path)
    assert providers(paths, configured(False)) == []
    assert providers(paths) == ["secretbox", "identity"]
    assert providers(paths, configured(False)) == ["identity", "secretbox"]


def test_a_damaged_key_is_not_replaced(tmp_path: Path) -> None:
    paths = node(tmp_path)
    secrets_encryption.create_key(paths)
    paths.encryption_key.write_text('{"name": "key1", "sec')
    with pytest.raises(Problem, match="is damaged") as caught:
        providers(paths)
    assert "restore" in (caught.value.hint or "") and caught.value.__context__ is None, "it would contain the key"


def test_k3s_encrypts_a_new_cluster_and_continues_after_a_power_cut_at_its_first_start(tmp_path: Path) -> None:
    paths = node(tmp_path)
    assert k3s_config(paths)[secrets_encryption.OPTION] is True
    (paths.data / "server/db/state.db").touch()  # K3s has created it, but its own key is not on the disk yet
    assert k3s_config(paths)[secrets_encryption.OPTION] is True


def test_k3s_with_an_existing_cluster_is_not_encrypted_by_an_update(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = node(tmp_path)
    (paths.data / "server/db/state.db").touch()
    assert k3s_config(paths)[secrets_encryption.OPTION] is False
    key = paths.data / "server/cred/encryption-config.json"
    key.parent.mkdir()
    key.touch()
    assert k3s_config(paths, configured(False))[secrets_encryption.OPTION] is True, "it could not read its Secrets"
    assert "k3s secrets-encrypt disable" in capsys.readouterr().out


@pytest.mark.parametrize("config", [{"datastore-endpoint": "postgres://db"}, {"cluster-init": True}])
def test_servers_that_share_a_datastore_are_encrypted_only_if_the_profile_says_so(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    paths = node(tmp_path)
    assert not secrets_encryption.is_new_cluster(NodeSettings(role="server", config=config), paths)


def test_both_distributions_have_the_same_limits(tmp_path: Path) -> None:
    paths = node(tmp_path)
    config = kubelet.kubelet_config(SERVER, paths)
    flags = dict(text.split("=", 1) for text in k3s_config(paths)["kubelet-arg"])
    for field, flag, value in kubelet_limits.LIMITS:
        assert config[field] == value
        assert flags[flag] == str(value).lower() if isinstance(value, bool) else str(value)
    assert config["protectKernelDefaults"] is True and k3s_config(paths)["protect-kernel-defaults"] is True
    assert flags["eviction-hard"] == ",".join(f"{name}<{free}" for name, free in config["evictionHard"].items())
    unprotected = NodeSettings(role="server", config={"protect-kernel-defaults": False})
    assert kubelet.kubelet_config(unprotected, paths)["protectKernelDefaults"] is False
    assert k3s_config(paths, unprotected)["protect-kernel-defaults"] is False


@pytest.mark.parametrize(
    ("size", "free"), [(1 * GIB, "153Mi"), (2 * GIB, "256Mi"), (4 * GIB, "256Mi"), (6 * GIB, "5%")]
)
def test_pods_are_evicted_while_an_update_still_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, free: str
) -> None:
    monkeypatch.setattr(kubelet_limits, "file_system_space", lambda _: FileSystemSpace(size, size))
    thresholds = kubelet_limits.eviction_thresholds(Paths(tmp_path))
    assert (thresholds["nodefs.available"], thresholds["imagefs.available"]) == (free, free)


def test_the_image_sets_what_the_kubelet_requires_of_the_kernel() -> None:
    lines = (places.overlays_folder() / "kubernetes/usr/lib/sysctl.d/60-edge-kubernetes.conf").read_text().splitlines()
    values = dict(line.split(" = ") for line in lines if not line.startswith("#"))
    assert {name: int(values[name.replace("/", ".")]) for name in KUBELET_SYSCTLS} == KUBELET_SYSCTLS


@pytest.mark.parametrize(("config", "right"), [("", False), (", config: {protect-kernel-defaults: false}", True)])
def test_a_sysctl_with_which_the_kubelet_does_not_start_is_rejected(tmp_path: Path, config: str, right: bool) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(PROFILE % config + "kernel: {sysctls: {kernel.panic: 30, vm.overcommit_memory: 1}}\n")
    if right:
        load_profile(path)
        return
    with pytest.raises(Error) as caught:
        load_profile(path)
    assert caught.value.where == f"{path}:5:34" and "`kernel.panic`" in caught.value.message
    assert "write 10" in (caught.value.hint or "")


def test_the_audit_log_is_bounded_and_only_root_can_read_it(tmp_path: Path) -> None:
    paths = node(tmp_path)
    arguments = dict(text.split("=") for text in audit_log.write_audit_policy(paths))
    assert arguments["audit-log-path"] == str(tmp_path / "var/lib/kubernetes/server/logs/audit.log")
    assert paths.audit_log.parent.stat().st_mode & 0o777 == 0o700
    assert int(arguments["audit-log-maxsize"]) * (int(arguments["audit-log-maxbackup"]) + 1) <= 110, "MB"
    assert set(arguments) <= {text.split("=")[0] for text in k3s_config(paths)["kube-apiserver-arg"]}


def test_the_audit_log_has_no_contents_of_objects() -> None:
    rules = audit_log.audit_policy()["rules"]
    assert {rule["level"] for rule in rules} == {"None", "Metadata"}
    assert rules[-1] == {"level": "Metadata"}, "whatever is not left out is recorded"


def test_a_pod_security_level_applies_to_all_namespaces_but_that_of_the_add_ons(tmp_path: Path) -> None:
    paths = node(tmp_path)
    assert pod_security.write_pod_security(SERVER, paths) == []
    restricted = NodeSettings(role="server", pod_security="restricted")
    (argument,) = pod_security.write_pod_security(restricted, paths)
    assert argument in k3s_config(paths, restricted)["kube-apiserver-arg"]
    (plugin,) = json.loads(Path(argument.split("=")[1]).read_text())["plugins"]
    assert plugin["name"] == "PodSecurity"
    assert plugin["configuration"]["defaults"]["enforce"] == "restricted"
    assert plugin["configuration"]["exemptions"]["namespaces"] == ["kube-system"]
    with pytest.raises(Problem, match="pod_security"):
        check_settings(NodeSettings(role="server", pod_security="strict"))
