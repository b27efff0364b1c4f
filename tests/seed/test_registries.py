"""Registries and authorities of a profile as files of a seed. `qemu-tests/test_registries.py` has a real registry."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from osbuild.config.load import load_profile
from osbuild.seed.render import render_seed
from osbuild.shared.errors import Error
from tests.support.certificates import IssuedCertificate, issue_certificate

HEAD = "name: node\nversion: 1.0.0\noverlays: [base, kubernetes]\n"
REGISTRIES = """\
kubernetes:
  role: agent
  server: https://192.0.2.1:6443
  token: env:PASSWORD
  registries:
    mirrors:
      "*": {endpoint: ["http://192.0.2.7", "https://b.example/v2/", "https://b.example/v2/proxy"]}
    configs:
      b.example:
        tls: {ca_file: file:ca.pem, cert_file: file:node.pem, key_file: file:node.key}
      docker.io:
        auth: {username: robot, password: env:PASSWORD}
"""
PASSWORD = 'hunter2 "\\ \x7f é'
TLS = {
    "ca": ["/etc/containerd/certs.d/b.example/ca.crt"],
    "client": [["/etc/containerd/certs.d/b.example/client.cert", "/etc/containerd/certs.d/b.example/client.key"]],
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IssuedCertificate:
    """The certificate of the node, which is in the folder of the profile with its key and its authority."""
    authority = issue_certificate("authority")
    node = issue_certificate("node", (), authority)
    (tmp_path / "ca.pem").write_text(f"a text\n{authority.pem}")
    (tmp_path / "node.pem").write_text(node.pem)
    (tmp_path / "node.key").write_text(node.key_pem)
    monkeypatch.setenv("PASSWORD", PASSWORD)
    return node


def render(folder: Path, text: str) -> dict[str, Any]:
    (folder / "node.yaml").write_text(HEAD + text)
    profile = load_profile(folder / "node.yaml").profile
    data: dict[str, Any] = yaml.safe_load(render_seed(profile, "node-1", folder=folder).files["user-data"])
    return data


def test_mirrors_accounts_and_certificates_are_files_that_containerd_and_k3s_read(
    tmp_path: Path, node: IssuedCertificate
) -> None:
    files = {entry["path"]: entry for entry in render(tmp_path, REGISTRIES)["write_files"]}
    folder = "/etc/containerd/certs.d"
    every = tomllib.loads(files[f"{folder}/_default/hosts.toml"]["content"])
    capabilities = ["pull", "resolve"]
    assert every == {
        "host": {
            "http://192.0.2.7": {"capabilities": capabilities},
            "https://b.example": {"capabilities": capabilities, **TLS},
            "https://b.example/v2/proxy": {"capabilities": capabilities, "override_path": True, **TLS},
        }
    }
    assert list(every["host"]) == ["http://192.0.2.7", "https://b.example", "https://b.example/v2/proxy"], "in order"
    assert tomllib.loads(files[f"{folder}/b.example/hosts.toml"]["content"]) == {**TLS, "host": {}}
    assert f"{folder}/docker.io/hosts.toml" not in files, "it would hide the mirrors of all registries"
    assert files[f"{folder}/b.example/client.cert"]["content"] == node.pem
    credentials = tomllib.loads(files["/etc/edge-osbuild/registry-credentials.toml"]["content"])
    account = {"username": "robot", "password": PASSWORD}
    plugin = credentials["plugins"]["io.containerd.grpc.v1.cri"]
    assert plugin["registry"]["configs"] == {"registry-1.docker.io": {"auth": account}}
    k3s = json.loads(files["/etc/rancher/k3s/registries.yaml"]["content"])
    assert k3s["configs"]["docker.io"] == {"auth": account}
    assert k3s["configs"]["b.example"]["tls"]["key_file"] == f"{folder}/b.example/client.key"
    assert k3s["mirrors"]["*"]["endpoint"][0] == "http://192.0.2.7"
    secret = {path for path, entry in files.items() if "hunter2" in entry["content"] or "PRIVATE" in entry["content"]}
    assert {files[path]["permissions"] for path in secret} == {"0600"} and len(secret) == 4
    assert "registries" not in json.loads(files["/etc/edge-osbuild/kubernetes.json"]["content"])


def test_without_registries_nothing_is_written_for_them(tmp_path: Path) -> None:
    files = {entry["path"] for entry in render(tmp_path, "kubernetes: {role: server}\n")["write_files"]}
    assert files == {"/etc/edge-osbuild/agent.json", "/etc/edge-osbuild/kubernetes.json"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("ca.pem", "no certificate", "found no certificate in `file:ca.pem`"),
        ("ca.pem", "-----BEGIN PRIVATE KEY-----\nhunter2", "found a private key in `file:ca.pem`"),
        ("node.key", "hunter2", "found no private key in `file:node.key`"),
        ("node.key", issue_certificate("other").key_pem, "does not belong to the certificate in `file:node.pem`"),
    ],
)
def test_certificates_and_keys_that_are_none_are_refused_without_their_contents(
    tmp_path: Path, node: IssuedCertificate, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(Error) as caught:
        render(tmp_path, REGISTRIES)
    assert message in str(caught.value) and (caught.value.where or "").startswith("kubernetes.registries.configs.b.ex")
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_own_authorities_are_trusted_beside_those_of_debian(tmp_path: Path, node: IssuedCertificate) -> None:
    authority = (tmp_path / "ca.pem").read_text().removeprefix("a text\n")
    (tmp_path / "two.pem").write_text(authority + node.pem)
    data = render(tmp_path, "ca_certificates: ['file:ca.pem', 'file:two.pem']\nkubernetes: {role: none}\n")
    assert data["ca_certs"] == {"trusted": [authority, node.pem]}, "each once"
    (tmp_path / "two.pem").write_text(node.key_pem)
    with pytest.raises(Error) as caught:
        render(tmp_path, "ca_certificates: ['file:ca.pem', 'file:two.pem']\n")
    assert caught.value.where == "ca_certificates[1]"


@pytest.mark.parametrize(
    ("registries", "message", "hint"),
    [
        ("mirrors: {a.example: {}}", "no `endpoint`", "endpoint: ["),
        ("mirrors: {a.example: {endpoint: [b.example]}}", "`b.example`", "URLs of mirrors"),
        ("mirrors: {a.example: {endpoint: ['https://me:hunter2@b.example']}}", "expected a URL", "mirrors"),
        ("mirrors: {a.example: {endpoint: ['https://b.example:0']}}", "1 to 65535", "https://"),
        ("mirrors: {a.example: {endpoint: ['https://b.example', 'https://b.example/']}}", "twice", "remove"),
        ("mirrors: {a.example: {rewrite: {a: b}}}", "unknown key `rewrite`", "endpoint"),
        ("mirrors: {'https://a.example': {endpoint: ['https://b.example']}}", "expected a host", "registry.example"),
        ("mirrors: {registry-1.docker.io: {endpoint: ['https://b.example']}}", "images name", "`docker.io`"),
        ("configs: {a.example/b: {auth: {auth: env:A}}}", "expected a host", "registry.example"),
        ("configs: {a.example: {}}", "neither `auth` nor `tls`", "remove"),
        ("configs: {a.example: {auth: {username: a}}}", "only one of `username`", "both"),
        ("configs: {a.example: {auth: {username: a, password: hunter2}}}", "a literal value", "file:PATH"),
        ("configs: {a.example: {auth: {auth: env:A, username: a, password: env:A}}}", "both `auth`", "one"),
        ("configs: {a.example: {tls: {key_file: env:A}}}", "only one of `cert_file`", "both"),
        ("configs: {a.example: {tls: {ca_file: env:A, insecure_skip_verify: true}}}", "ignores it", "remove"),
        ("configs: {'*': {auth: {auth: env:A}}}", "send its password", "`*`"),
    ],
)
def test_registries_that_containerd_would_not_use_are_rejected(
    tmp_path: Path, registries: str, message: str, hint: str
) -> None:
    path = tmp_path / "node.yaml"
    path.write_text(f"{HEAD}kubernetes:\n  role: server\n  registries: {{{registries}}}\n")
    with pytest.raises(Error) as caught:
        load_profile(path)
    assert message in caught.value.message and (caught.value.where or "").startswith(f"{path}:6:"), caught.value
    assert hint in (caught.value.hint or ""), caught.value.hint
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
