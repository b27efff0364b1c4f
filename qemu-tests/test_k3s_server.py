"""What a K3s server grants to whom, with the real program of a release on this host: tokens, names of nodes, rights.

The tests depend on their order. They need neither machine nor image, and are skipped if no release is available.
"""

import base64
import datetime
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.control_plane import wait_for
from support.distributions import K3S
from support.k3s_server import K3sServer
from support.pod_security import assert_privileged_pods_only_in_kube_system

from osbuild.agent.kubernetes import k3s_join, token_command
from osbuild.agent.kubernetes.api import ApiServer, unverified_context
from osbuild.agent.kubernetes.join_failure import FailureKind
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.rotated_tokens import TokenName
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.host.architecture import Architecture
from osbuild.shared.node_settings import API_PORT, NodeSettings

TOKEN, AGENTS = "a-secret-of-servers", "a-secret-of-agent-nodes"
SEED = {"token": TOKEN, "agent_token": AGENTS, "pod_security": "baseline"}
URL = f"https://127.0.0.1:{API_PORT}"
BOOTSTRAP, CONFIG, CERTIFICATE = (f"/v1-k3s/{name}" for name in ("server-bootstrap", "config", "serving-kubelet.crt"))
NO_ETCD = 400  # the answer of a server without etcd to a client that may have the keys of the cluster


@pytest.fixture(scope="module")
def k3s(tmp_path_factory: pytest.TempPathFactory) -> K3sServer:
    if reason := K3S.missing(Architecture.native()):
        pytest.skip(reason)
    return K3sServer(tmp_path_factory.mktemp("k3s"), SEED)


@pytest.fixture(scope="module")
def server(k3s: K3sServer) -> Iterator[ApiServer]:
    try:
        yield k3s.start()
    finally:
        k3s.stop()


def answer_to(path: str, user: str, password: str, **headers: str) -> int:
    """Return the status code of a request to K3s with a token."""
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    request = urllib.request.Request(URL + path, headers={"Authorization": f"Basic {credentials}", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10, context=unverified_context()) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def failure_of(folder: Path, token: str) -> FailureKind | None:
    """Return why an agent node with this token cannot join; None if it can."""
    settings = NodeSettings(role="agent", server=URL, token=token)
    Paths(folder).run.mkdir(parents=True, exist_ok=True)
    failure = k3s_join.explain_join(folder, settings)
    return failure.kind if failure else None


def full_token(k3s: K3sServer, name: str) -> str:
    return (k3s.root / f"var/lib/kubernetes/server/{name}").read_text().strip()


def test_the_authority_is_pinned_through_a_full_token(k3s: K3sServer, server: ApiServer, tmp_path: Path) -> None:
    full = full_token(k3s, "agent-token")
    assert full.startswith("K10") and full.endswith(f"::node:{AGENTS}")
    assert failure_of(tmp_path, full) is None
    other = full.replace(full[3:67], "0" * 64)
    assert failure_of(tmp_path, other) is FailureKind.AUTHORITY
    # K3s itself, as a client of the server.
    full = full_token(k3s, "token")
    status = ("secrets-encrypt", "status", "--token")
    trusted = k3s.command(*status, full)  # an error of the server, which answers this only once it has a node
    assert "secret-encrypt error" in trusted.stderr, trusted.stderr
    refused = k3s.command(*status, full.replace(full[3:67], "0" * 64))
    assert refused.returncode and "CA hash does not match" in refused.stderr, refused.stderr


def test_servers_and_agent_nodes_have_tokens_of_their_own(server: ApiServer, tmp_path: Path) -> None:
    assert failure_of(tmp_path, AGENTS) is None
    assert failure_of(tmp_path, TOKEN) is FailureKind.TOKEN
    assert answer_to(CONFIG, "node", AGENTS) == 200
    assert answer_to(BOOTSTRAP, "server", TOKEN) == NO_ETCD
    for user in ("node", "server"):
        assert answer_to(BOOTSTRAP, user, AGENTS) in (401, 403), "it has the keys of the cluster"


def test_a_wrong_token_is_refused(server: ApiServer, tmp_path: Path) -> None:
    assert failure_of(tmp_path, "wrong") is FailureKind.TOKEN
    assert answer_to(CONFIG, "node", "wrong") == 401


def test_each_machine_keeps_the_name_of_its_node(server: ApiServer) -> None:
    first, other = ({"K3s-Node-Name": "site-1-agent", "K3s-Node-Password": text} for text in ("first", "other"))
    wait_for(lambda: answer_to(CERTIFICATE, "node", AGENTS, **first) == 200, "no certificate for a new name")
    assert answer_to(CERTIFICATE, "node", AGENTS, **other) == 403
    assert answer_to(CERTIFICATE, "node", AGENTS, **first) == 200


def test_a_created_token_is_for_agent_nodes_until_it_is_revoked(
    k3s: K3sServer, server: ApiServer, tmp_path: Path
) -> None:
    full = token_command.create_token(k3s.root, datetime.timedelta(hours=1), "for shop 7")
    assert full.startswith("K10")
    (created,) = token_command.list_created(k3s.root, load_settings(k3s.root))
    assert created.identifier == full.partition("::")[2][:6] and created.description == "for shop 7"
    left = datetime.datetime.fromisoformat(created.expires) - datetime.datetime.now(datetime.UTC)
    assert 3500 < left.total_seconds() <= 3600
    page = "\n".join(token_command.show_tokens(k3s.root))
    assert created.identifier in page and full.rpartition(".")[2] not in page and f"::server:{TOKEN}" in page
    wait_for(lambda: failure_of(tmp_path, full) is None, "the created token is not known")
    token_command.revoke_token(k3s.root, created.identifier)
    wait_for(lambda: failure_of(tmp_path, full) is FailureKind.TOKEN, "the revoked token is still known")
    short = token_command.create_token(k3s.root, datetime.timedelta(seconds=1), "")
    wait_for(lambda: failure_of(tmp_path, short) is FailureKind.TOKEN, "the expired token is still known")


def test_each_controller_has_only_its_own_rights(k3s: K3sServer, server: ApiServer) -> None:
    creator = "system:serviceaccount:kube-system:service-account-controller"

    def users() -> set[str]:
        lines = Paths(k3s.root).audit_log.read_text().splitlines()
        return {json.loads(line)["user"]["username"] for line in lines}

    wait_for(lambda: creator in users(), "the controller that creates service accounts")


def test_a_pod_beyond_the_pod_security_level_is_refused_except_in_kube_system(server: ApiServer) -> None:
    assert_privileged_pods_only_in_kube_system(server)


def test_a_rotated_token_replaces_that_of_the_seed(k3s: K3sServer, server: ApiServer, tmp_path: Path) -> None:
    full = token_command.rotate_token(k3s.root, TokenName.CLUSTER)
    agents = token_command.rotate_token(k3s.root, TokenName.AGENTS)
    k3s.stop()
    k3s.start()
    assert full_token(k3s, "token") == full
    assert answer_to(BOOTSTRAP, "server", full.rpartition(":")[2]) == NO_ETCD
    assert answer_to(BOOTSTRAP, "server", TOKEN) in (401, 403)
    assert failure_of(tmp_path, agents) is None
    assert failure_of(tmp_path, AGENTS) is FailureKind.TOKEN
