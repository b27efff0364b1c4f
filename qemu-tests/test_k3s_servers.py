"""Several K3s servers, real programs of a release in network namespaces of this host: with etcd, and with a database.

The tests depend on their order. They need neither machine nor image, and are skipped if no release is available.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.control_plane import wait_for
from support.distributions import K3S
from support.k3s_server import K3sServer
from support.servers import running_network

from osbuild.host.architecture import Architecture
from osbuild.shared.node_settings import API_PORT
from tests.support.mariadb import running_mariadb
from tests.support.postgresql import running_postgresql, text_of

pytestmark = pytest.mark.slow  # two or three servers on one host: minutes
TOKEN, AGENTS = "the token of servers", "the token of agent nodes"
FIRST = f"https://192.0.2.1:{API_PORT}"


def make_servers(stack: ExitStack, folder: Path, configs: Sequence[dict[str, Any]]) -> list[K3sServer]:
    """Return one server for each of `configs`, in networks that are connected. The servers are off."""
    if reason := K3S.missing(Architecture.native()):
        pytest.skip(reason)
    network = stack.enter_context(running_network())
    servers = []
    for number, config in enumerate(configs, 1):
        root = folder / str(number)
        root.mkdir()
        seed = {"token": TOKEN, "agent_token": AGENTS, "node_ip": f"192.0.2.{number}"}
        if joined := config.pop("server", None):
            seed["server"] = joined
        own = {"node-name": f"node-{number}", "node-ip": seed["node_ip"]}
        servers.append(K3sServer(root, seed, own | config, network.add_host(number)))
        stack.callback(servers[-1].kill)
    return servers


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[K3sServer]]:
    with ExitStack() as stack:
        configs: list[dict[str, Any]] = [{"cluster-init": True}, {"server": FIRST}, {"server": FIRST}]
        yield make_servers(stack, tmp_path_factory.mktemp("etcd"), configs)


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[K3sServer]]:
    """Two servers that share a database; neither knows the other."""
    with ExitStack() as stack:
        if request.param == "mariadb":
            endpoint = stack.enter_context(running_mariadb())
        else:
            postgresql = stack.enter_context(running_postgresql())
            endpoint = text_of(postgresql.create_database()).replace("postgresql://", "postgres://")
        configs = [{"datastore-endpoint": endpoint} for _ in range(2)]
        yield make_servers(stack, tmp_path_factory.mktemp("database"), configs)


def create(server: K3sServer, name: str) -> bool:
    return server.kubectl("create", "configmap", name).returncode == 0


def names(server: K3sServer) -> set[str]:
    return set(server.kubectl("get", "configmaps", "-o", "jsonpath={.items[*].metadata.name}").stdout.split())


def test_three_servers_form_one_cluster(etcd: list[K3sServer]) -> None:
    first, *others = etcd
    first.start_beside_others()
    assert create(first, "first")
    for server in others:
        server.start_beside_others()
        assert "first" in names(server)
    assert create(others[1], "third")
    wait_for(lambda: all("third" in names(server) for server in etcd), "every server has it")


def test_when_a_server_is_killed_the_others_go_on(etcd: list[K3sServer]) -> None:
    killed, *others = etcd
    killed.kill()
    wait_for(lambda: create(others[0], "without-the-first"), "another server writes", 60)
    assert "without-the-first" in names(others[1])
    killed.start_beside_others()
    wait_for(lambda: "without-the-first" in names(killed), "it gets what it has missed")


def test_two_servers_share_a_database(database: list[K3sServer]) -> None:
    first, second = database
    first.start_beside_others()
    assert create(first, "first")
    second.start_beside_others()
    assert "first" in names(second)
    first.kill()
    assert create(second, "without-the-first")
    first.start_beside_others()
    assert {"first", "without-the-first"} <= names(first)
