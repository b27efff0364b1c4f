"""The proxy of an agent node, with a real API server on this host that ends and starts again."""

import json
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.control_plane import RELEASES, SERVER, ControlPlane, end_process, wait_for, write_settings
from test_joining import TOKEN, configure_token, make_machine

from osbuild.agent.kubernetes import join, prepare
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.local_api import LISTEN
from osbuild.agent.kubernetes.paths import Paths

AGENT = "site-1-agent"
PODS = f"/api/v1/pods?fieldSelector=spec.nodeName%3D{AGENT}"
VERSION = RELEASES[0].version


class RemoteSite:
    """A server on this host, and an agent node whose proxy runs here too."""

    def __init__(self, folder: Path) -> None:
        self.plane = ControlPlane(folder / "server")
        write_settings(self.plane.root, SERVER, {"token": TOKEN})
        self.agent = make_machine(folder / "agent")
        self.paths = Paths(self.agent)

    @contextmanager
    def server(self) -> Iterator[ApiServer]:
        with ExitStack() as stack:
            admin, _ = stack.enter_context(self.plane.run_version(VERSION))
            stack.enter_context(self.plane.run_program("kube-controller-manager", VERSION))
            yield admin

    @contextmanager
    def proxy(self) -> Iterator[subprocess.Popen[bytes]]:
        plan = json.loads((self.paths.run / "node.json").read_text())
        chosen = self.agent / "local-api-plan.json"
        chosen.write_text(json.dumps({"programs": {"local-api": plan["programs"]["local-api"]}}))
        with (self.agent / "proxy.log").open("ab") as log, ExitStack() as stack:
            command: list[str | Path] = [self.plane.binary(VERSION), "run", chosen]
            process = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
            stack.callback(end_process, process)
            wait_for(lambda: self.call("/readyz-of-the-proxy") is not None, "the proxy", 30)
            yield process
            assert process.poll() is None, (self.agent / "proxy.log").read_text()

    def open(self, path: str, *, method: str = "GET", body: Any = None, timeout: float = 20) -> Any:
        context = ssl.create_default_context(cafile=str(self.paths.local_api_authority))
        context.load_cert_chain(self.paths.credentials)
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://{LISTEN}{path}", content, method=method)
        request.add_header("Content-Type", "application/json")
        return urllib.request.urlopen(request, context=context, timeout=timeout)

    def call(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """Return the JSON that the proxy answers, or the status code of an error."""
        try:
            with self.open(path, method=method, body=body) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> RemoteSite:
    return RemoteSite(tmp_path_factory.mktemp("site"))


def pod(name: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": AGENT, "containers": [{"name": "web", "image": "localhost/web"}]},
    }


def names(answer: Any) -> list[str]:
    return sorted(item["metadata"]["name"] for item in answer["items"])


def join_agent(site: RemoteSite) -> None:
    arguments = (site.plane.root / "run/edge-osbuild/kubernetes/join.env").read_text().removeprefix("ARGS=").split()
    with subprocess.Popen([site.plane.root / join.PROGRAM, *arguments]) as approver:
        try:
            configure_token(site.plane, TOKEN)
            join.join_cluster(site.agent, 120)
        finally:
            end_process(approver)
    prepare.prepare_node(site.agent)


def create_objects(site: RemoteSite, admin: ApiServer) -> None:
    """Create what the agent's kubelet asks for."""
    site.call("/api/v1/nodes", method="POST", body={"metadata": {"name": AGENT}})
    wait_for(lambda: admin.call("GET", "/api/v1/namespaces/default/serviceaccounts/default"), "a service account")
    for name in ("web", "db"):
        admin.call("POST", "/api/v1/namespaces/default/pods", pod(name))
    admin.call("POST", "/api/v1/namespaces/default/secrets", {"metadata": {"name": "s"}, "stringData": {"a": "b"}})


def test_without_a_server_the_proxy_answers_what_it_has_stored(site: RemoteSite) -> None:
    with site.server() as admin:
        join_agent(site)
        with site.proxy():
            create_objects(site, admin)
            assert names(site.call(PODS)) == ["db", "web"]
            stream = site.open(f"{PODS}&watch=true&resourceVersion={site.call(PODS)['metadata']['resourceVersion']}")
            admin.call("POST", "/api/v1/namespaces/default/pods", pod("late"))
            admin.call("DELETE", "/api/v1/namespaces/default/pods/db?gracePeriodSeconds=0")
            seen = [json.loads(stream.readline()) for _ in range(2)]
            assert {event["object"]["metadata"]["name"] for event in seen} >= {"late"}
            assert site.call("/api/v1/namespaces/kube-system/secrets") == 403, "the rights are those of the node"
            uid = admin.call("GET", "/api/v1/namespaces/default/pods/web")["metadata"]["uid"]
            ask = {"spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": uid}}}
            path = "/api/v1/namespaces/default/serviceaccounts/default/token"
            token = site.call(path, method="POST", body=ask)["status"]["token"]
            time.sleep(4)  # until it is on the disk
    with site.proxy():  # after a boot
        stored = site.call(PODS)
        assert set(names(stored)) >= {"late", "web"} and stored["kind"] == "PodList"
        again = site.call(path, method="POST", body=ask)
        assert again["status"]["token"] == token
        assert site.call("/api/v1/namespaces/default/pods", method="POST", body=pod("new")) == 503
        assert site.call("/api/v1/services") == 503, "nothing has asked for it before"


def test_a_watch_without_a_server_begins_with_what_is_stored_and_ends_when_a_server_answers(site: RemoteSite) -> None:
    with site.proxy():
        query = "&watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        stream = site.open(PODS + query, timeout=240)
        events = [json.loads(stream.readline())]
        while events[-1]["type"] != "BOOKMARK":
            events.append(json.loads(stream.readline()))
        assert {event["object"]["metadata"].get("name") for event in events[:-1]} >= {"late", "web"}
        assert all(event["object"]["kind"] == "Pod" for event in events)
        assert events[-1]["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true"
        ended = threading.Thread(target=stream.read)
        ended.start()
        ended.join(1)
        assert ended.is_alive(), "it stays open while there is no server"
        with site.server() as admin:
            ended.join(120)
            assert not ended.is_alive()
            admin.call("POST", "/api/v1/namespaces/default/pods", pod("after"))
            wait_for(lambda: "after" in names(site.call(PODS)), "the new pod", 60)


def test_nobody_but_the_node_may_use_the_proxy(site: RemoteSite) -> None:
    with site.proxy():
        context = ssl.create_default_context(cafile=str(site.paths.local_api_authority))
        with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"https://{LISTEN}{PODS}", context=context, timeout=10).read()
        pki = site.plane.root / "var/lib/kubernetes/pki"
        context.load_cert_chain(pki / "front-proxy-client.crt", pki / "front-proxy-client.key")
        with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
            urllib.request.urlopen(f"https://{LISTEN}{PODS}", context=context, timeout=10).read()


def test_a_damaged_store_is_no_obstacle(site: RemoteSite) -> None:
    files = sorted((site.paths.data / "node-objects").glob("*.json"))
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, "it contains secrets"
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with site.proxy():
        assert site.call(PODS) == 503
