"""Settings of servers whose cluster has several, and the keys that they share; more: qemu-tests/test_servers.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import external_datastore, pki, prepare, server_bundle
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.node_settings import NodeSettings

FIRST = {"node_ip": "192.0.2.1", "config": {"node-name": "first", "cluster-init": True}}
ENDPOINT = "postgres://k:hunter2@192.0.2.9/k"
KEY = bytes(range(32))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / pki.PROGRAM).parent.mkdir(parents=True)
    program = upstream_programs.build_small_program("pki", Architecture.native(), Cache())
    (tmp_path / pki.PROGRAM).symlink_to(program)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").touch()
    return tmp_path


def prepare_server(root: Path, seed: dict[str, Any]) -> dict[str, Any] | None:
    """Prepare a server, and return the programs of its control plane."""
    for name, content in ((IMAGE_FILE, {"role": "server"}), (SEED_FILE, seed)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    prepare.prepare_node(root)
    plan = root / "run/edge-osbuild/kubernetes/server.json"
    programs: dict[str, Any] | None = json.loads(plan.read_text())["programs"] if plan.exists() else None
    return programs


def test_the_first_server_has_etcd_instead_of_sqlite_and_elects_its_leaders(root: Path) -> None:
    programs = prepare_server(root, FIRST)
    assert programs and "kine" not in programs and next(iter(programs)) == "etcd"
    assert "--etcd-servers=https://127.0.0.1:2379" in programs["kube-apiserver"]
    for name in ("kube-controller-manager", "kube-scheduler"):
        assert {"--leader-elect=true", "--leader-elect-renew-deadline=30s"} <= set(programs[name])
    settings = json.loads(Path(programs["etcd"][0]).read_text())
    assert settings["address"] == "192.0.2.1" and settings["join"] == ""
    assert settings["snapshots"]["schedule"] == "0 */12 * * *" and settings["snapshots"]["retention"] == 5
    for name in ("etcd-ca.key", "etcd-server.key", "etcd-client.key"):
        assert (Paths(root).pki / name).stat().st_mode & 0o077 == 0


def test_a_single_server_has_neither_etcd_nor_leases(root: Path) -> None:
    programs = prepare_server(root, {"config": {"node-name": "only"}})
    assert programs and "etcd" not in programs and not (Paths(root).pki / "etcd-ca.key").exists()
    assert [text for text in programs["kube-scheduler"] if "leader" in text] == ["--leader-elect=false"]


@pytest.mark.parametrize("seed", [{"server": "https://192.0.2.1:6443"}, {"config": {"datastore-endpoint": ENDPOINT}}])
def test_a_server_that_joins_makes_no_keys_of_its_own(root: Path, seed: dict[str, Any]) -> None:
    assert prepare_server(root, {"node_ip": "192.0.2.2", "token": "t", **seed}) is None
    assert not Paths(root).pki.exists() and (root / "run/edge-osbuild/kubernetes/server-joins").exists()


@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        ({"config": {"cluster-init": True}}, "needs `node_ip`"),
        ({**FIRST, "server": "https://192.0.2.2:6443", "token": "t"}, "`server` exclude each other"),
        (
            {**FIRST, "config": {"cluster-init": True, "datastore-endpoint": ENDPOINT}, "token": "t"},
            "exclude each other",
        ),
        (
            {"node_ip": "192.0.2.1", "config": {"datastore-endpoint": "nats://db"}, "token": "t"},
            "the database is none of",
        ),
        ({"node_ip": "192.0.2.1", "config": {"datastore-endpoint": ENDPOINT}}, "need `token`"),
        ({**FIRST, "config": {"cluster-init": True, "etcd-snapshot-dir": "/etc"}}, "is not below /var/lib/kubernetes"),
        ({**FIRST, "config": {"cluster-init": True, "etcd-snapshot-retention": "0"}}, "not a number above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_named(root: Path, seed: dict[str, Any], reason: str) -> None:
    with pytest.raises(Problem, match=reason) as caught:
        prepare_server(root, seed)
    assert caught.value.hint and caught.value.where


def test_a_server_with_a_cluster_in_sqlite_does_not_become_one_of_several(root: Path) -> None:
    database = root / "var/lib/kubernetes/server/db/state.db"
    database.parent.mkdir(parents=True)
    database.touch()
    with pytest.raises(Problem, match="a cluster of its own in SQLite"):
        prepare_server(root, FIRST)


def test_the_keys_of_a_cluster_are_sealed_with_a_key_of_the_token(root: Path) -> None:
    prepare_server(root, FIRST)
    paths = Paths(root)
    sealed = server_bundle.seal_bundle(paths, KEY)
    files = server_bundle.open_bundle(paths, KEY, sealed)
    assert files["ca.key"] == (paths.pki / "ca.key").read_text()
    assert {"etcd-ca.key", "sa.key", "secrets-encryption.json"} <= files.keys() and "apiserver.key" not in files
    assert sealed != server_bundle.seal_bundle(paths, KEY), "the same content looks different each time"
    with pytest.raises(ValueError, match="another key, or damaged"):
        server_bundle.open_bundle(paths, KEY[::-1], sealed)
    with pytest.raises(ValueError, match="another key, or damaged"):
        server_bundle.open_bundle(paths, KEY, sealed[:-8] + "AAAAAAA=")
    with pytest.raises(ValueError, match="has not sent"):
        server_bundle.open_bundle(paths, KEY, server_bundle.seal(paths, KEY, {"sa.key": "x"}))
    with pytest.raises(ValueError, match="unknown files"):
        server_bundle.open_bundle(paths, KEY, server_bundle.seal(paths, KEY, {"../../etc/shadow": "x"}))


def test_stored_keys_are_those_of_the_cluster_and_for_root_only(root: Path) -> None:
    prepare_server(root, FIRST)
    paths = Paths(root)
    files = server_bundle.open_bundle(paths, KEY, server_bundle.seal_bundle(paths, KEY))
    server_bundle.store_bundle(paths, files)
    assert {path.name: path.read_text() for path in paths.pki.iterdir()} == files
    for path in paths.pki.iterdir():
        assert path.suffix == ".crt" or path.stat().st_mode & 0o077 == 0
    assert not (paths.data / ".pki.new").exists()


def test_messages_do_not_contain_the_password_of_the_database() -> None:
    settings = NodeSettings(role="server", config={"datastore-endpoint": ENDPOINT})
    text = external_datastore.redact(settings, f"cannot parse {ENDPOINT}: user k:hunter2@192.0.2.9 unknown")
    assert "hunter2" not in text and "cannot parse" in text
