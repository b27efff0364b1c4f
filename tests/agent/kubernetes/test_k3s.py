"""K3s on the device: one configuration for every command, a synced password, the right interface, certificates."""

import datetime
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.agent.__main__ import main
from osbuild.agent.kubernetes import certificates, prepare
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE
from osbuild.host import paths as places

CONFIG = "etc/rancher/k3s/config.yaml"
PASSWORD = "etc/rancher/node/password"
UNITS = places.overlays_folder() / "kubernetes/usr/lib/systemd/system"
AGENT = {"role": "agent", "server": "https://192.0.2.1:6443"}


def device(root: Path, image: dict[str, Any], seed: dict[str, Any] | None = None) -> Path:
    """A root with K3s, and with settings of the image and of the seed."""
    for name, content in ((IMAGE_FILE, image), (SEED_FILE, {"token": "secret", **(seed or {})})):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/k3s").touch()
    (root / "usr/lib/systemd/system").mkdir(parents=True)
    (root / "usr/lib/systemd/system/systemd-resolved.service").touch()
    return root


def written(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / CONFIG).read_text())
    return content


def test_every_k3s_command_reads_the_configuration(tmp_path: Path) -> None:
    root = device(tmp_path, {"role": "server"})
    prepare.prepare_node(root)
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o600
    assert written(root)["data-dir"] == "/var/lib/kubernetes"
    for role in ("server", "agent"):
        unit = (UNITS / f"k3s-{role}.service").read_text()
        assert f"ExecStart=/usr/bin/k3s {role}\n" in unit, "no --config: K3s' other commands would not see it"


def test_pods_get_the_name_servers_and_volume_plugins_a_writable_folder(tmp_path: Path) -> None:
    root = device(tmp_path, {"role": "server", "config": {"kubelet-arg": "max-pods=20"}})
    prepare.prepare_node(root)
    config = written(root)
    assert config["resolv-conf"] == f"{root}/run/edge-osbuild/kubernetes/resolv.conf", "K3s' own choice is 8.8.8.8"
    assert Path(config["resolv-conf"]).read_text() == "nameserver 203.0.113.254\n"
    assert config["kubelet-arg"][1] == f"volume-plugin-dir={root}/var/lib/kubelet/volume-plugins"
    assert config["kubelet-arg"][-1] == "max-pods=20", "it overrides what is before it"
    assert f"flex-volume-plugin-dir={root}/var/lib/kubelet/volume-plugins" in config["kube-controller-manager-arg"]
    assert (root / "var/lib/kubelet/volume-plugins").is_dir()


def test_a_further_server_joins_the_one_in_the_settings(tmp_path: Path) -> None:
    seed = {"server": "https://192.0.2.1:6443", "token": "t", "node_ip": "192.0.2.2"}
    root = device(tmp_path, {"role": "server"}, seed)
    prepare.prepare_node(root)
    config = json.loads((root / "etc/rancher/k3s/config.yaml").read_text())
    assert (config["server"], config["token"]) == ("https://192.0.2.1:6443", "t")
    assert config["advertise-address"] == "192.0.2.2" and "cluster-init" not in config


def test_the_configuration_of_an_agent_node_has_no_server_options(tmp_path: Path) -> None:
    root = device(tmp_path, AGENT)
    prepare.prepare_node(root)
    assert not {"kube-controller-manager-arg", "tls-san", "disable", "write-kubeconfig"} & written(root).keys()


def test_the_node_password_is_written_before_k3s_starts_and_kept(tmp_path: Path) -> None:
    root = device(tmp_path, AGENT)
    prepare.prepare_node(root)
    password = (root / PASSWORD).read_text()
    assert len(password.strip()) == 32
    assert (root / PASSWORD).stat().st_mode & 0o777 == 0o600
    prepare.prepare_node(root)
    assert (root / PASSWORD).read_text() == password
    (root / PASSWORD).write_text("")  # as a power cut leaves what was never synced
    prepare.prepare_node(root)
    assert (root / PASSWORD).read_text().strip()


def certificate(path: Path, days: float) -> None:
    """A certificate that ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, path.stem)])
    now = datetime.datetime.now(datetime.UTC)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(now - datetime.timedelta(400))
    signed = built.not_valid_after(now + datetime.timedelta(days=days)).sign(key, hashes.SHA256())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, ...]]]:
    """What systemd is asked for."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr("osbuild.agent.kubernetes.prepare.systemctl", lambda *arguments: commands.append(arguments))
    yield commands


@pytest.mark.parametrize(
    ("name", "days", "restarted"),
    [
        ("server/tls/serving-kube-apiserver.crt", 119, True),
        ("server/tls/etcd/client.crt", -1, True),
        ("agent/client-kubelet.crt", 119, True),
        ("agent/client-kubelet.crt", 121, False),
        ("server/tls/client-ca.crt", 30, False),
        ("server/tls/server-ca.nochain.crt", 30, False),
    ],
)
def test_renew_restarts_k3s_when_less_than_120_days_are_left(
    tmp_path: Path, restarts: list[tuple[str, ...]], name: str, days: float, restarted: bool
) -> None:
    root = device(tmp_path, {"role": "server"})
    certificate(root / "var/lib/kubernetes" / name, days)
    certificate(root / "var/lib/kubernetes/agent/other.crt", 300)
    assert main(["kubernetes", "--root", str(root), "renew"]) == 0
    assert restarts == ([("restart", "--no-block", "kubernetes.target")] if restarted else [])


def test_a_damaged_certificate_does_not_prevent_checks_of_the_others(
    tmp_path: Path, restarts: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    root = device(tmp_path, {"role": "server"})
    certificate(root / "var/lib/kubernetes/server/tls/b.crt", 5)
    (root / "var/lib/kubernetes/server/tls/a.crt").write_text("")
    assert main(["kubernetes", "--root", str(root), "renew"]) == 0
    assert restarts and "a.crt" in capsys.readouterr().out


# A node's interfaces: edge0 with the address that every node has, and lan0, whose address comes late.
INTERFACES = """
ip link add edge0 type bridge
ip address add 203.0.113.254/31 dev edge0
ip link set edge0 up
ip route add default via 203.0.113.255 dev edge0 metric 65535
ip link add lan0 type bridge
ip link set lan0 up
"""
# The address is added once the command waits for it.
LATE = """
(until grep -qs waiting {output}; do sleep 0.05; done; ip address add 198.51.100.7/24 dev lan0; {more}) &
"""


def namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a network namespace of its own (unshare(1))."""
    command = ["unshare", "--net", "sh", "-euc", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


NETWORK = pytest.mark.skipif(
    not (shutil.which("ip") and shutil.which("unshare") and namespace(INTERFACES).returncode == 0),
    reason="needs ip, root, and a kernel with bridges",
)


@NETWORK
@pytest.mark.parametrize(
    ("image", "seed", "more", "waited"),
    [
        ({"role": "server"}, {"node_ip": "198.51.100.7"}, ":", "the address 198.51.100.7"),
        ({"role": "agent", "server": "https://198.51.100.1:6443"}, {"node_ip": "198.51.100.7"}, ":", "198.51.100.7"),
        ({"role": "agent", "server": "https://198.51.100.1:6443"}, {}, ":", "a route to https://198.51.100.1:6443"),
        (AGENT, {}, "ip route add default via 198.51.100.1 dev lan0", "a route to https://192.0.2.1:6443"),
    ],
)
def test_k3s_waits_for_the_nodes_address_and_gets_its_interface(
    tmp_path: Path, image: dict[str, Any], seed: dict[str, Any], more: str, waited: str
) -> None:
    root = device(tmp_path, image, seed)
    prepare.prepare_node(root)
    assert "flannel-iface" not in written(root)
    arguments = [sys.executable, "-m", "osbuild.agent", "kubernetes", "--root", str(root), "address"]
    output = tmp_path / "output"
    late = LATE.format(more=more, output=output)
    result = namespace(f"{INTERFACES}{late}cd {places.PROJECT}\n{shlex.join(arguments)} > {output}\n")
    assert result.returncode == 0, result.stderr
    assert waited in output.read_text()
    config = written(root)
    assert (config["flannel-iface"], config["node-ip"]) == ("lan0", "198.51.100.7")


@NETWORK
@pytest.mark.parametrize("config", [{}, {"flannel-iface": "eth7"}])
def test_a_single_server_and_a_profile_with_an_interface_need_no_address(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    seed = {"node_ip": "198.51.100.9"} if config else {}
    root = device(tmp_path, {"role": "server", "config": config}, seed)
    arguments = [sys.executable, "-m", "osbuild.agent", "kubernetes", "--root", str(root), "address"]
    result = namespace(INTERFACES + f"cd {places.PROJECT}\n{shlex.join(arguments)}\n")
    assert result.returncode == 0, result.stderr
    assert written(root).get("flannel-iface") == config.get("flannel-iface")


@pytest.mark.parametrize("role", ["server", "agent"])
def test_the_address_is_set_before_k3s_starts_and_images_are_imported_after_it(role: str) -> None:
    unit = (UNITS / f"k3s-{role}.service").read_text()
    assert "ExecStartPre=/usr/bin/edge-agent kubernetes address\n" in unit
    after = [word for line in (UNITS / "edge-images.service").read_text().splitlines() if line.startswith("After=")
             for word in line.removeprefix("After=").split()]  # fmt: skip
    assert {f"k3s-{role}.service", "kubelet.service"} <= set(after)


def test_a_restart_that_renewed_nothing_is_repeated_only_at_the_next_limit(
    tmp_path: Path, restarts: list[tuple[str, ...]]
) -> None:
    """The timer runs every day, and older releases of K3s renew at 90 days only."""
    root = device(tmp_path, {"role": "server"})
    counts = []
    for days in (130, 119, 118, 91, 89, 88, 365, 119):
        certificate(root / "var/lib/kubernetes/agent/client-kubelet.crt", days)
        assert main(["kubernetes", "--root", str(root), "renew"]) == 0
        counts.append(len(restarts))
    assert counts == [0, 1, 1, 1, 2, 2, 2, 3]


def test_a_node_that_never_ran_has_no_certificates() -> None:
    assert list(certificates.read_certificates(Paths(Path("/nonexistent")))) == []
