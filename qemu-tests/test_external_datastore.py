"""Two servers with a database of PostgreSQL or MariaDB: real programs in network namespaces of this host."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.control_plane import wait_for
from support.servers import ClusterNode, running_network

from tests.support.mariadb import running_mariadb
from tests.support.postgresql import running_postgresql, text_of

TOKEN = "the token of servers"
pytestmark = pytest.mark.slow  # two API servers on one host: minutes


@pytest.fixture(scope="module", params=["postgresql", "mariadb"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database with a password, as kine wants it."""
    if request.param == "mariadb":
        with running_mariadb() as address:
            yield address
        return
    with running_postgresql() as server:
        yield text_of(server.create_database()).replace("postgresql://", "postgres://")


@pytest.fixture(scope="module")
def servers(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ClusterNode]]:
    """Two servers that have started. Neither knows the other."""
    with running_network() as network, ExitStack() as stack:
        nodes = [ClusterNode(tmp_path_factory.mktemp(f"node-{n}"), n, network.add_host(n)) for n in (1, 2)]
        for node in nodes:
            stack.callback(node.kill)
            node.make(
                "server", {}, {"token": TOKEN, "config": {"node-name": node.name, "datastore-endpoint": endpoint}}
            )
            node.agent("prepare")
            node.agent("join", "--patience", "60")
            node.start()
            node.await_ready()
            node.add_node_object()
        yield nodes


def names(node: ClusterNode) -> set[str]:
    return {item["metadata"]["name"] for item in node.get("configmaps")["items"]}


def test_both_servers_have_the_same_objects_and_keys(servers: list[ClusterNode]) -> None:
    servers[0].kubectl("create", "configmap", "first")
    wait_for(lambda: "first" in names(servers[1]), "kine asks the database for changes", 10)
    for name in ("ca.key", "sa.key", "front-proxy-ca.key", "secrets-encryption.json"):
        assert len({(node.root / "var/lib/kubernetes/pki" / name).read_text() for node in servers}) == 1, name


def test_the_password_of_the_database_is_for_root_only(servers: list[ClusterNode], endpoint: str) -> None:
    password = endpoint.partition("://")[2].partition("@")[0].partition(":")[2]
    assert len(password) > 20
    for node in servers:
        assert password not in Path(f"/proc/{node.processes[-1].pid}/cmdline").read_text()
        assert password not in node.log.read_text(errors="replace")
        for path in node.root.rglob("*"):
            if path.is_file() and path.stat().st_size < 2**20 and password in path.read_text(errors="replace"):
                assert path.stat().st_mode & 0o077 == 0 or path.name == "kubernetes.json", path


def test_when_a_server_is_killed_the_other_goes_on(servers: list[ClusterNode]) -> None:
    servers[0].kill()
    servers[1].kubectl("create", "configmap", "without-the-first")
    # Its controllers run on the other server once the lease has ended.
    servers[1].kubectl("create", "namespace", "later")
    wait_for(lambda: "default" in servers[1].kubectl("get", "serviceaccounts", "-n", "later").stdout, "controllers", 90)
    servers[0].start()
    servers[0].await_ready()
    assert "without-the-first" in names(servers[0])


def test_a_server_with_another_token_gets_no_keys(servers: list[ClusterNode], endpoint: str, tmp_path: Path) -> None:
    stranger = ClusterNode(tmp_path, 2, servers[1].namespace)
    config = {"node-name": "stranger", "datastore-endpoint": endpoint}
    stranger.make("server", {}, {"token": "another", "config": config})
    stranger.agent("prepare")
    result = stranger.agent("join", "--patience", "0", check=False)
    assert result.returncode and "servers with another token" in result.stderr
    assert not (stranger.root / "var/lib/kubernetes/pki").exists()
