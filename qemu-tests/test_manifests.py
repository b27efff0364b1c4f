"""How a server node applies its manifests, with a real API server on this host."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.control_plane import CONFIGMAPS, RELEASES, ControlPlane

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


def apply(plane: ControlPlane, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "KUBECONFIG": str(plane.root / "var/lib/kubernetes/admin.conf")}
    command: list[str | Path] = [plane.binary(VERSION), "apply", *paths]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_definitions_come_before_the_objects_that_need_them(
    server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    (tmp_path / "shops.yaml").write_text(SHOPS)
    (tmp_path / "README").write_text("not a manifest")
    applied = apply(plane, tmp_path)
    assert applied.stdout.splitlines() == ["applied CustomResourceDefinition shops.example.test", "applied Shop corner"]
    assert server.call("GET", "/apis/example.test/v1/namespaces/default/shops/corner")["spec"] == {"tills": 2}


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
