"""HelmChart objects: helm-controller in a real control plane on this host, and the program of its jobs."""

import base64
import hashlib
import http.server
import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.control_plane import RELEASES, ControlPlane, wait_for
from support.helm_jobs import (
    CHARTS,
    CONFIGS,
    JOBS,
    NAMESPACE,
    JobRunner,
    change_chart_object,
    find_object,
    greeting,
    make_chart_object,
    pack_chart,
    release_state,
)

from osbuild.agent.kubernetes.api import MERGE_PATCH, ApiServer
from osbuild.host.architecture import Architecture
from osbuild.kubernetes import addon_images
from osbuild.shared.node_settings import API_PORT

VERSION = RELEASES[0].version
STATIC = "https://%{KUBERNETES_API}%/static/charts/shop-1.0.0.tgz"
ACCOUNT = ("robot", "hunter2")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    plane = ControlPlane(tmp_path_factory.mktemp("plane"), helm=True)
    addon_images.install_manifests(plane.root, (), Architecture.native())
    chart = plane.root / "usr/lib/edge-osbuild/charts/shop-1.0.0.tgz"
    chart.parent.mkdir()
    chart.write_bytes(pack_chart())
    return plane


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ApiServer]:
    with plane.run_version(VERSION) as (admin, _):
        plane.apply_manifests(VERSION, "run/edge-osbuild/kubernetes/addons/helm-controller.yaml")
        with plane.run_programs(("kube-controller-manager", "helm-controller"), VERSION):
            wait_for(lambda: find_object(admin, CHARTS), "the kind HelmChart", 180)
            yield admin


@pytest.fixture
def runner(server: ApiServer, plane: ControlPlane, tmp_path: Path) -> JobRunner:
    program = addon_images.build_program(addon_images.HELM, Architecture.native(), plane.cache)
    return JobRunner(server, program, plane.root / "var/lib/kubernetes/pki/ca.crt", tmp_path)


def wait_installed(server: ApiServer, name: str) -> None:
    """Wait until helm-controller has seen that the job is complete."""

    def complete() -> bool:
        job = server.call("GET", f"{JOBS}/helm-install-{name}")
        return any(
            item["type"] == "Complete" and item["status"] == "True" for item in job["status"].get("conditions", ())
        )

    wait_for(complete, f"the job of {name}")


@pytest.mark.usefixtures("server")
def test_a_server_offers_the_charts_of_its_image_to_everybody_but_no_list_of_them(plane: ControlPlane) -> None:
    stranger = ssl.create_default_context(cafile=plane.root / "var/lib/kubernetes/pki/ca.crt")
    charts = f"https://127.0.0.1:{API_PORT}/static/charts"
    with urllib.request.urlopen(f"{charts}/shop-1.0.0.tgz", context=stranger) as answer:
        assert answer.read() == (plane.root / "usr/lib/edge-osbuild/charts/shop-1.0.0.tgz").read_bytes()
    for path in ("", "missing.tgz", "../db/state.db"):
        with pytest.raises(urllib.error.HTTPError, match=r"40[34]"):
            urllib.request.urlopen(f"{charts}/{path}", context=stranger)


def test_a_chart_of_the_image_is_installed_upgraded_and_uninstalled(server: ApiServer, runner: JobRunner) -> None:
    make_chart_object(server, "baked", chart=STATIC, set={"greeting": "first, of all"})
    assert "Installing the chart" in runner.run_job("helm-install-baked")
    assert greeting(server, "baked") == {"greeting": "first, of all", "revision": "1"}
    wait_installed(server, "baked")
    change_chart_object(server, "baked", set={"greeting": "second"})
    assert "Upgrading the release" in runner.run_job("helm-install-baked")
    assert greeting(server, "baked") == {"greeting": "second", "revision": "2"}
    wait_installed(server, "baked")
    server.call("DELETE", f"{CHARTS}/baked")
    assert "Uninstalling the release" in runner.run_job("helm-delete-baked")
    assert greeting(server, "baked") is None
    wait_for(lambda: find_object(server, f"{CHARTS}/baked") is None, "the end of the HelmChart object")


def test_a_chart_in_its_object_gets_values_of_all_sources_in_their_order(server: ApiServer, runner: JobRunner) -> None:
    config = {"apiVersion": "helm.cattle.io/v1", "kind": "HelmChartConfig", "metadata": {"name": "inline"}}
    server.call("POST", CONFIGS, config | {"spec": {"valuesContent": "greeting: of the config"}})
    content = base64.b64encode(pack_chart()).decode()
    make_chart_object(server, "inline", chartContent=content, valuesContent="greeting: of the object")
    runner.run_job("helm-install-inline")
    assert greeting(server, "inline") == {"greeting": "of the config", "revision": "1"}
    wait_installed(server, "inline")
    patch = {"spec": {"valuesContent": "greeting: changed"}}
    server.call("PATCH", f"{CONFIGS}/inline", patch, kind=MERGE_PATCH)
    runner.run_job("helm-install-inline")
    assert greeting(server, "inline") == {"greeting": "changed", "revision": "2"}


def test_a_chart_that_fails_is_installed_again_once_it_is_repaired(server: ApiServer, runner: JobRunner) -> None:
    make_chart_object(server, "broken", chart=STATIC, set={"kind": "Nothing"})
    assert "Nothing" in runner.run_job("helm-install-broken", succeeds=False)
    change_chart_object(server, "broken", set={"kind": "Secret"})  # a Secret whose values are not base64 is refused
    message = runner.run_job("helm-install-broken", succeeds=False)
    assert "base64" in message and release_state(server, "broken")[0] == "failed"
    change_chart_object(server, "broken", failurePolicy="abort", set={"kind": "ConfigMap"})
    assert "abort" in runner.run_job("helm-install-broken", succeeds=False)
    assert greeting(server, "broken") is None
    change_chart_object(server, "broken", failurePolicy="reinstall")
    assert "Uninstalling the release, which is failed" in runner.run_job("helm-install-broken")
    assert greeting(server, "broken") == {"greeting": "hello", "revision": "1"}


class Downloads(http.server.BaseHTTPRequestHandler):
    """Serves the files of its server to those who have the account."""

    def do_GET(self) -> None:
        wanted = "Basic " + base64.b64encode(":".join(ACCOUNT).encode()).decode()
        files: dict[str, tuple[str, bytes]] = self.server.files  # type: ignore[attr-defined]
        status, kind, content = 404, "text/plain", b""
        if self.headers.get("Authorization") != wanted:
            status = 401
        elif self.path in files:
            status, (kind, content) = 200, files[self.path]
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="test"')
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if status == 200:
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


@contextmanager
def serve_files(files: dict[str, tuple[str, bytes]]) -> Iterator[str]:
    """Serve files on loopback. Yields host and port."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Downloads) as listener:
        listener.files = files  # type: ignore[attr-defined]
        threading.Thread(target=listener.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{listener.server_port}"
        listener.shutdown()


def make_secret(server: ApiServer, name: str, kind: str, **values: str) -> None:
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": kind, "stringData": values}
    server.call("POST", f"{NAMESPACE}/secrets", body)


def test_a_chart_is_downloaded_from_a_repository_with_an_account(server: ApiServer, runner: JobRunner) -> None:
    chart = pack_chart("2.1.0")
    entry = {"apiVersion": "v2", "name": "shop", "version": "2.1.0", "urls": ["shop-2.1.0.tgz"],
             "digest": hashlib.sha256(chart).hexdigest()}  # fmt: skip
    index = json.dumps({"apiVersion": "v1", "entries": {"shop": [entry]}}).encode()
    files = {"/index.yaml": ("text/yaml", index), "/shop-2.1.0.tgz": ("application/gzip", chart)}
    make_secret(server, "account", "kubernetes.io/basic-auth", username=ACCOUNT[0], password=ACCOUNT[1])
    with serve_files(files) as address:
        make_chart_object(server, "stranger", chart="shop", repo=f"http://{address}", version="2.1.0")
        assert "401" in runner.run_job("helm-install-stranger", succeeds=False)
        secret = {"name": "account"}
        make_chart_object(server, "remote", chart="shop", repo=f"http://{address}", version="2.1.0", authSecret=secret)
        runner.run_job("helm-install-remote")
    assert greeting(server, "remote") == {"greeting": "hello", "revision": "1"}


def test_a_chart_is_downloaded_from_an_oci_registry_with_an_account(server: ApiServer, runner: JobRunner) -> None:
    chart, config = pack_chart("3.0.0"), b'{"apiVersion": "v2", "name": "shop", "version": "3.0.0"}'
    kinds = ("application/vnd.cncf.helm.config.v1+json", "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
    blobs = [
        {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}
        for kind, content in zip(kinds, (config, chart), strict=True)
    ]
    media = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": media, "config": blobs[0], "layers": blobs[1:]}
    ).encode()  # fmt: skip
    base = "/v2/charts/shop"
    files = {f"{base}/blobs/{blob['digest']}": (str(blob["mediaType"]), content)
             for blob, content in zip(blobs, (config, chart), strict=True)}  # fmt: skip
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    files |= {f"{base}/manifests/{name}": (media, manifest) for name in ("3.0.0", digest)}
    with serve_files(files) as address:
        accounts = {"auths": {address: {"auth": base64.b64encode(":".join(ACCOUNT).encode()).decode()}}}
        text = json.dumps(accounts)
        make_secret(server, "registry", "kubernetes.io/dockerconfigjson", **{".dockerconfigjson": text})
        make_chart_object(
            server, "oci", chart=f"oci://{address}/charts/shop", version="3.0.0", plainHTTP=True,
            dockerRegistrySecret={"name": "registry"},
        )  # fmt: skip
        runner.run_job("helm-install-oci")
    assert greeting(server, "oci") == {"greeting": "hello", "revision": "1"}
