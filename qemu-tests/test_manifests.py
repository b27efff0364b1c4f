"""How a server node applies its manifests, with a real API server on this host."""

import json
import shutil
import socket
import subprocess
import tempfile
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.control_plane import CONFIGMAPS, NODE, RELEASES, ControlPlane, make_node

from osbuild.agent.kubernetes.api import ApiServer

VERSION = RELEASES[0].version
SHOPS = """
apiVersion: example.test/v1
kind: Shop
metadata: {name: corner}
spec: {tills: 2}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: shops.example.test}
spec:
  group: example.test
  names: {kind: Shop, plural: shops}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {spec: {type: object, properties: {tills: {type: integer}}}}
"""
WRONG = """
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: ConfigMap, metadata: {name: good}, data: {a: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: bad}, dota: {a: b}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: after}, data: {a: b}}
"""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ApiServer]:
    with plane.run_version(VERSION) as (admin, _):
        yield admin


APP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: tills, namespace: shop}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop, namespace: shop}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: shop}
provisioner: example.test/none
---
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
"""
POD = """
apiVersion: apps/v1
kind: ReplicaSet
metadata: {name: till}
spec:
  replicas: 0
  selector: {matchLabels: {app: till}}
  template: {metadata: {labels: {app: till}}, spec: {containers: [{name: till, image: "localhost/till:1"}]}}
"""
OTHER = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n"
RECORD = "/api/v1/namespaces/kube-system/configmaps/edge-manifests"


def apply(plane: ControlPlane, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return plane.apply_manifests(VERSION, *map(str, arguments))


def apply_all(plane: ControlPlane, folder: Path, server: str = NODE, **files: str) -> list[str]:
    """Apply `files` as all manifests of a server. Returns what was removed and kept."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    applied = apply(plane, "--server", server, folder)
    assert applied.returncode == 0, applied.stderr
    return [line for line in applied.stdout.splitlines() if not line.startswith("applied ")]


def exists(server: ApiServer, path: str) -> bool:
    try:
        server.call("GET", path)
    except urllib.error.HTTPError as error:
        assert error.code == 404, error
        return False
    return True


def test_definitions_come_before_the_objects_that_need_them(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "shops.yaml").write_text(SHOPS)
    (tmp_path / "README").write_text("not a manifest")
    applied = apply(plane, tmp_path)
    assert applied.stdout.splitlines() == ["applied CustomResourceDefinition shops.example.test", "applied Shop corner"]
    assert server.call("GET", "/apis/example.test/v1/namespaces/default/shops/corner")["spec"] == {"tills": 2}


def test_what_starts_pods_comes_last(server: ApiServer, plane: ControlPlane, tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text(f"{POD}---\n{OTHER}")
    applied = apply(plane, tmp_path)
    assert applied.stdout.splitlines() == ["applied ConfigMap other", "applied ReplicaSet till"], applied.stderr


def test_an_object_that_is_refused_is_named_and_the_others_are_applied(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    manifest = tmp_path / "maps.yaml"
    manifest.write_text(WRONG)
    applied = apply(plane, manifest)
    assert applied.returncode == 1
    assert f"{manifest}: ConfigMap bad: " in applied.stderr and "dota" in applied.stderr
    names = {item["metadata"]["name"] for item in server.call("GET", CONFIGMAPS)["items"]}
    assert {"good", "after"} <= names and "bad" not in names


def test_what_was_changed_since_is_applied_again(server: ApiServer, plane: ControlPlane, tmp_path: Path) -> None:
    manifest = tmp_path / "map.json"
    manifest.write_text(
        '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "again"}, "data": {"a": "ours"}}'
    )
    assert apply(plane, manifest).returncode == 0
    theirs = {"data": {"a": "theirs", "b": "theirs"}}
    server.call("PATCH", f"{CONFIGMAPS}/again", theirs, kind="application/merge-patch+json")
    assert apply(plane, manifest).returncode == 0
    assert server.call("GET", f"{CONFIGMAPS}/again")["data"] == {"a": "ours", "b": "theirs"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("kind: ConfigMap\n", "no kind or no apiVersion"),
        ("a: b: c\n", "mapping values"),
        ("apiVersion: v1\nkind: Pod\n", "no name"),
    ],
)
def test_a_file_that_is_no_manifest_is_named_and_nothing_is_applied(
    server: ApiServer, plane: ControlPlane, tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "1.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: first}\n")
    (tmp_path / "2.yaml").write_text(text)
    applied = apply(plane, tmp_path)
    assert applied.returncode == 1 and f"{tmp_path}/2.yaml: " in applied.stderr and problem in applied.stderr
    assert "first" not in {item["metadata"]["name"] for item in server.call("GET", CONFIGMAPS)["items"]}


def test_objects_that_are_in_no_manifest_any_more_are_removed_and_data_is_kept(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    assert apply_all(plane, tmp_path / "m", app=APP, other=OTHER) == []
    left = apply_all(plane, tmp_path / "m", other=OTHER)
    assert left == [
        "removed ConfigMap default shop",
        "removed StorageClass shop",
        "removed ConfigMap shop shop",
        "kept PersistentVolumeClaim shop tills: it contains data, delete it with kubectl",
        "kept Namespace shop: it contains data, delete it with kubectl",
    ]
    assert exists(server, "/api/v1/namespaces/shop/persistentvolumeclaims/tills")
    assert exists(server, f"{CONFIGMAPS}/other") and not exists(server, f"{CONFIGMAPS}/shop")
    assert not exists(server, "/apis/storage.k8s.io/v1/storageclasses/shop")
    assert apply_all(plane, tmp_path / "m", app=APP, other=OTHER) == []  # as after a rollback
    assert exists(server, f"{CONFIGMAPS}/shop") and exists(server, "/apis/storage.k8s.io/v1/storageclasses/shop")
    assert "removed ConfigMap default other" in apply_all(plane, tmp_path / "m")
    assert apply_all(plane, tmp_path / "m") == []


def test_an_object_that_somebody_has_made_since_is_kept(server: ApiServer, plane: ControlPlane, tmp_path: Path) -> None:
    apply_all(plane, tmp_path / "m", other=OTHER)
    server.call("DELETE", f"{CONFIGMAPS}/other")
    server.call("POST", CONFIGMAPS, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other"}})
    assert apply_all(plane, tmp_path / "m") == ["kept ConfigMap default other: it is not from a manifest"]
    assert exists(server, f"{CONFIGMAPS}/other")


def test_a_run_that_was_interrupted_is_completed_by_the_next_one(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    apply_all(plane, tmp_path / "m", app=APP)
    # An object that is refused ends neither the run nor the removal.
    record = json.loads(server.call("GET", RECORD)["data"][NODE])
    interrupted = {"applied": ["/ConfigMap//other"], "left": record["applied"]}
    patch = {"data": {NODE: json.dumps(interrupted)}}
    server.call("PATCH", RECORD, patch, kind="application/merge-patch+json")
    (tmp_path / "wrong.yaml").write_text(WRONG)
    applied = apply(plane, "--server", NODE, tmp_path / "wrong.yaml")
    assert applied.returncode == 1 and "ConfigMap bad: " in applied.stderr
    assert not exists(server, f"{CONFIGMAPS}/shop")
    record = json.loads(server.call("GET", RECORD)["data"][NODE])
    assert "/ConfigMap/default/good" in record["applied"] and "left" not in record


def test_an_object_of_another_server_is_kept_until_no_server_has_it(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    for name in ("one", "two", "gone"):
        apply_all(plane, tmp_path / "m", name, app=APP, other=OTHER)
    for name in ("one", "two"):
        make_node(server, name)
    assert apply_all(plane, tmp_path / "m", "one", app=APP) == []
    assert exists(server, f"{CONFIGMAPS}/other")
    assert apply_all(plane, tmp_path / "m", "two", app=APP) == ["removed ConfigMap default other"]
    assert apply_all(plane, tmp_path / "m", "one", app=APP) == []


def test_only_manifests_that_the_cluster_has_not_had_delay_a_boot(
    server: ApiServer, plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd hears that the unit is started after the last object, or before the first one (sd_notify(3))."""
    server.call("POST", "/api/v1/namespaces", {"metadata": {"name": "closing"}})
    manifests, text = tmp_path / "manifests", OTHER.replace("{name: other}", "{name: other, namespace: closing}")
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"{folder}/notify")
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify")
        assert apply_all(plane, manifests, "node-3", app=text) == []
        assert systemd.recv(64) == b"READY=1"
        server.call("DELETE", "/api/v1/namespaces/closing")
        server.call("DELETE", "/api/v1/namespaces/closing/configmaps/other")
        assert apply(plane, "--server", "node-3", manifests).returncode == 1, "a closing namespace takes nothing new"
        assert systemd.recv(64) == b"READY=1"
        (manifests / "app.yaml").write_text(f"{text}data: {{a: b}}\n")
        assert apply(plane, "--server", "node-3", manifests).returncode == 1
        with pytest.raises(BlockingIOError):
            systemd.recv(64)
