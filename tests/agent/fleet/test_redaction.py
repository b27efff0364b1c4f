"""Secrets that leave a device: none of those that are planted here."""

import time
from pathlib import Path

import pytest

from osbuild.agent.fleet.redaction import hide_secrets, known_secrets
from osbuild.agent.system import System

HASH = "$6$saltsalt$kkGHvTz3pqJ5u1Qy0mR5r8sXbS4nTzV2"
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgplantedplanted0
hRANCAATplantedplantedplantedplantedplanted
-----END PRIVATE KEY-----"""
TOKEN = "K10" + "0123456789abcdef" * 4 + "::server:planted"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.planted-planted"


@pytest.mark.parametrize(
    "line",
    [
        "connect to https://ann:planted@host.example/path",
        "GET https://host.example/f?signature=planted&x=1 failed",
        "password=planted", "DB_PASSWORD: planted", '{"password": "planted", "user": "ann"}', "passwd='planted'",
        "k3s agent --token planted --server https://host", "api_key=planted", "psk=planted-network",
        "Authorization: Bearer planted", "Authorization: Basic planted", "Proxy-Authorization: Basic planted==",
        "sent bearer planted.planted", "Cookie: session=planted; x=planted", "Set-Cookie: planted",
        "token edge_enrol_planted-planted", "edge_access_planted", f"joins with {TOKEN}", f"jwt {JWT}",
        "bootstrap abcdef.planted0planted0 ok",
        f"hash {HASH.replace('kk', 'planted')}", "client-key-data: LS0tLS1CRUdJTiplanted",
        "the client-key is LS0tLS1CRUdJTiplanted",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_removed(line: str) -> None:
    text = hide_secrets(f"Nov 30 host unit[1]: {line}\nthe next line", ())
    assert "planted" not in text, text
    assert text.startswith("Nov 30 host unit[1]: ") and text.endswith("\nthe next line\n")


@pytest.mark.parametrize("prefix", ["", "Nov 30 04:00:01 host openssl[7]: "])
def test_private_keys_are_removed_also_line_by_line_in_the_journal(prefix: str) -> None:
    text = hide_secrets("".join(f"{prefix}{line}\n" for line in ["before", *KEY.splitlines(), "after"]), ())
    assert text == f"{prefix}before\n{prefix}… a private key\n{prefix}after\n"
    assert "planted" not in hide_secrets(KEY.replace("\n", "\\n"), ())


def test_a_private_key_without_an_end_does_not_hide_everything() -> None:
    text = hide_secrets("-----BEGIN PRIVATE KEY-----\n" + "x\n" * 500 + "after", ())
    assert text.endswith("after\n") and text.count("x\n") < 400


def test_what_is_no_secret_is_kept() -> None:
    lines = (
        "Started edge-fleet.service - Follow the update server.\n"
        "edge-health: 30-agent: https://updates.example.com:8443 answers\n"
        "kernel: device-mapper: verity: sha256 using implementation sha256-generic\n"
        "inet 192.0.2.10/24 scope global 2001:db8::10\n"
        "root hash   5cff0183dc576f7704bd3ed737e89329abd2ef57b5841a5a319650ec4864fc67\n"
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
    )
    assert hide_secrets(lines, ()) == lines


def test_the_secrets_of_this_device_are_removed_wherever_they_are(tmp_path: Path) -> None:
    files = {
        "etc/edge-osbuild/agent.json": '{"enrolment": "planted-enrolment", "server": "https://host"}',
        "etc/edge-osbuild/kubernetes.json": '{"token": "planted-join", "config": {"agent-token": ["planted-agent"]}}',
        "etc/edge-osbuild/proxy.env": "https_proxy=http://ann:planted-proxy@proxy:3128\n",
        "etc/shadow": "ann:planted-hash:1:2\nroot:*:1:2\n",
        "var/lib/kubernetes/server-token": "planted-server\n",
        "var/lib/edge-fleet/device.key": KEY,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    known = known_secrets(System(tmp_path))
    said = (
        "x planted-enrolment planted-join planted-agent planted-proxy planted-hash planted-server host "
        f"{KEY.splitlines()[1]} end"
    )
    assert hide_secrets(said, known) == "x … … … … … … host … end\n"


def test_a_hostile_journal_does_not_take_long() -> None:
    hostile = ["a" * 100_000, "://" * 30_000, "--" * 50_000, "token" * 20_000, "eyJ" * 30_000, "-----BEGIN " * 9_000]
    begin = time.process_time()
    text = hide_secrets("\n".join(hostile), ("aaaaaaab", "secret"))
    assert time.process_time() - begin < 20 and max(map(len, text.splitlines())) < 9000
