"""What a power cut leaves of files of K3s and the kubelet is removed before they start; K3s' token is never lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import prepare
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
DATA = "var/lib/kubernetes"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A server with K3s whose profile gives no token."""
    for name, content in ((IMAGE_FILE, {"role": "server"}), (SEED_FILE, {})):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/k3s").touch()
    return tmp_path


def put(root: Path, name: str, text: str = "") -> Path:
    path = root / DATA / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def config(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "etc/rancher/k3s/config.yaml").read_text())
    return content


@pytest.mark.parametrize("name", [
    "server/tls/client-ca.crt", "server/tls/client-ca.key", "server/tls/etcd/peer-ca.key", "server/cred/passwd",
    "server/cred/admin.kubeconfig", "server/cred/ipsec.psk", "server/etc/egress-selector-config.yaml", "server/token",
    "agent/client-kubelet.crt", "agent/kubelet.kubeconfig", "server/tls/temporary-certs/apiserver-loopback__.crt",
    "../kubelet/pki/kubelet.crt", "../kubelet/pki/kubelet-client-2026-11-29-10-00-00.pem",
])  # fmt: skip
@pytest.mark.parametrize("content", ["", "\0" * 512])
def test_a_file_that_a_power_cut_emptied_is_removed(root: Path, name: str, content: str) -> None:
    torn = put(root, name, content)
    prepare.prepare_node(root)
    assert not torn.exists(), "K3s and the kubelet trust a file that exists"


def test_truncated_files_are_removed_and_complete_ones_are_kept(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = [
        put(root, "server/tls/server-ca.crt", CERTIFICATE + CERTIFICATE[:40]),
        put(root, "server/tls/dynamic-cert.json", '{"data": '),
    ]
    whole = [
        put(root, "server/tls/client-ca.crt", CERTIFICATE * 2),
        put(root, "server/tls/dynamic-cert-regenerate"),  # a request to K3s, always empty
        put(root, "server/db/state.db-wal"),
        put(root, "server/manifests/traefik.yaml.skip"),
        put(root, "server/cred/ipsec.psk", "secret\n"),
    ]
    prepare.prepare_node(root)
    assert not [path for path in short if path.exists()]
    assert not [path for path in whole if not path.exists()]
    output = capsys.readouterr().out
    assert "server-ca.crt (the end of the last certificate or key is missing)" in output and "not JSON" in output


def test_a_new_authority_also_issues_the_certificate_of_the_port(root: Path) -> None:
    put(root, "server/tls/client-scheduler.key")
    prepare.prepare_node(root)
    request = root / DATA / "server/tls/dynamic-cert-regenerate"
    assert not request.exists()
    put(root, "server/tls/server-ca.crt")
    put(root, "server/tls/dynamic-cert.json", "{}")
    prepare.prepare_node(root)
    assert request.exists(), "K3s would keep the certificate of the old authority"


def test_nothing_is_removed_while_k3s_runs(root: Path) -> None:
    """K3s may be about to write it."""
    begun = put(root, "server/tls/client-ca.crt")
    prepare.prepare_node(root, running=True)
    assert begun.exists()


def test_a_server_without_a_token_gets_a_permanent_one(root: Path) -> None:
    prepare.prepare_node(root)
    token = config(root)["token"]
    assert len(token) == 64, "256 bits"
    token_file = root / DATA / "server-token"
    assert token_file.stat().st_mode & 0o777 == 0o600
    put(root, "server/cred/passwd")
    prepare.prepare_node(root)
    assert config(root)["token"] == token


def test_a_token_that_k3s_has_chosen_is_kept(root: Path) -> None:
    passwords = put(root, "server/cred/passwd", "abc,node,k3s:agent,\nold-token,server,k3s:server,\n")
    prepare.prepare_node(root)
    assert config(root)["token"] == "old-token"
    passwords.write_text("")  # now it is on the disk, whatever becomes of K3s' file
    prepare.prepare_node(root)
    assert config(root)["token"] == "old-token"
    put(root, "server/cred/passwd", "new-token,server,k3s:server,\n")  # `k3s token rotate`
    prepare.prepare_node(root)
    assert config(root)["token"] == "new-token"


@pytest.mark.parametrize("settings", [{"token": "given"}, {"config": {"token-file": "/etc/token"}}])
def test_the_token_of_the_profile_is_used(root: Path, settings: dict[str, Any]) -> None:
    (root / SEED_FILE).write_text(json.dumps(settings))
    prepare.prepare_node(root)
    assert config(root).get("token") == settings.get("token")
    assert not (root / DATA / "server-token").exists()


@pytest.mark.parametrize("damaged", [b"\0" * 65, b"\xff\xfe\n", b"two words\n"])
def test_a_damaged_token_or_password_is_reported_kept_and_made_again(
    root: Path, damaged: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    files = (root / DATA / "server-token", root / "etc/rancher/node/password")
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(damaged)
    prepare.prepare_node(root)
    token, password = (path.read_text().strip() for path in files)
    assert len(token) == 64 and len(password) == 32
    report = capsys.readouterr().err
    for path in files:
        assert f"{path} is damaged: not " in report and path.with_name(f"{path.name}.damaged").read_bytes() == damaged
    assert "two" not in report, "a secret is not shown"
    assert config(root)["token"] == token
    put(root, "server/cred/passwd", "torn,server")
    prepare.prepare_node(root)
    assert config(root)["token"] == token, "a line that was cut off has no token"


def test_deeply_nested_json_is_damaged(root: Path) -> None:
    torn = put(root, "server/tls/dynamic-cert.json", "[" * 200_000)
    prepare.prepare_node(root)
    assert not torn.exists()
    (root / SEED_FILE).write_text("[" * 200_000)
    with pytest.raises(Problem, match="not JSON"):
        prepare.prepare_node(root)


def test_a_role_of_the_seed_counts_alone_and_is_no_unknown_setting(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.prepare_node(root)
    (root / SEED_FILE).write_text(json.dumps({"role": "none", "of_a_later_version": 1}))
    prepare.prepare_node(root)
    assert [path.name for path in (root / "run/edge-osbuild/kubernetes").glob("role-*")] == ["role-none"]
    said = capsys.readouterr().err
    assert "`of_a_later_version` has no effect" in said and "`role`" not in said


def test_a_running_k3s_keeps_the_configuration_that_it_was_started_with(root: Path) -> None:
    """The interface for pods is found just before each start, and written to it."""
    prepare.prepare_node(root)
    written = root / "etc/rancher/k3s/config.yaml"
    written.write_text('{"flannel-iface": "lan0"}')
    prepare.prepare_node(root, running=True)
    assert config(root) == {"flannel-iface": "lan0"}
