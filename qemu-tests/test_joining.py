"""Joining a cluster of the upstream distribution, with real programs on this host: kine, API server, controller manager
and `edge-node approve`. The tests depend on their order; they need neither machine nor image.
"""

import base64
import contextlib
import datetime
import hashlib
import json
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.control_plane import (
    NODE,
    RELEASES,
    SERVER,
    ControlPlane,
    end_process,
    link_node_program,
    wait_for,
    write_settings,
)

from osbuild.agent.commands import status
from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import (
    api,
    join,
    join_discovery,
    join_objects,
    join_protocol,
    pki,
    prepare,
    server_settings,
    token_command,
)
from osbuild.agent.kubernetes.api import ApiServer
from osbuild.agent.kubernetes.join_discovery import find_cluster
from osbuild.agent.kubernetes.join_failure import FailureKind, JoinError, read_failure
from osbuild.agent.kubernetes.join_protocol import AGENTS, SERVERS
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.rotated_tokens import TokenName
from osbuild.agent.kubernetes.settings import load_settings
from osbuild.agent.system import System
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs
from osbuild.shared.join_token import hash_authority
from osbuild.shared.node_settings import API_PORT

TOKEN, OTHER = "a secret that both know", "another secret"
URL = f"https://127.0.0.1:{API_PORT}"
AGENT = "site-1-agent"
RECORD = "/api/v1/namespaces/kube-system/configmaps/edge-osbuild-nodes"
SECRETS = "/api/v1/namespaces/kube-system/secrets?fieldSelector=type%3Dbootstrap.kubernetes.io%2Ftoken"
MAPS = "/api/v1/namespaces/kube-public/configmaps"
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def configure_token(plane: ControlPlane, token: str | None, agent_token: str | None = None) -> None:
    """Set the join tokens of the server's seed, and do the work of its units."""
    tokens = {"token": token, "agent_token": agent_token}
    write_settings(plane.root, SERVER, {name: value for name, value in tokens.items() if value})
    prepare.prepare_node(plane.root)
    join_objects.refresh_join_objects(plane.root)


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> ControlPlane:
    return ControlPlane(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="module")
def server(plane: ControlPlane) -> Iterator[ApiServer]:
    """The API server for its administrator, with the objects for joining, and those of an earlier version."""
    write_settings(plane.root, SERVER, {"token": TOKEN})
    with ExitStack() as stack:
        admin, _ = stack.enter_context(plane.run_version(RELEASES[0].version))
        create_legacy_objects(admin)
        stack.enter_context(plane.run_program("kube-controller-manager", RELEASES[0].version))
        configure_token(plane, TOKEN)
        arguments = (plane.root / "run/edge-osbuild/kubernetes/join.env").read_text().removeprefix("ARGS=").split()
        log = stack.enter_context((plane.root / "approve.log").open("ab"))
        approver = stack.enter_context(
            subprocess.Popen([plane.root / join.PROGRAM, *arguments], stdout=log, stderr=log)
        )
        stack.callback(end_process, approver)
        yield admin
        assert approver.poll() is None, (plane.root / "approve.log").read_text()


def create_legacy_objects(server: ApiServer) -> None:
    """Create the objects that servers of earlier versions made for joining."""
    secret = {
        "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true", "auth-extra-groups": join_protocol.GROUP,
    }  # fmt: skip
    body = {"metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token"}
    server.call("POST", "/api/v1/namespaces/kube-system/secrets", {**body, "stringData": secret})
    info = {"metadata": {"name": "cluster-info"}, "data": {"jws-kubeconfig-abcdef": "header..mac"}}
    server.call("POST", "/api/v1/namespaces/kube-public/configmaps", info)
    approve = "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
    server.call(
        "POST",
        f"{RBAC}/clusterrolebindings",
        join_protocol.cluster_role_binding("approve-first", approve, join_protocol.GROUP),
    )


def make_machine(folder: Path, name: str = AGENT, token: str = TOKEN) -> Path:
    """Make the root of a machine that is going to join as `name`."""
    write_settings(folder, {"role": "agent", "config": {"node-name": name}}, {"server": URL, "token": token})
    link_node_program(folder, Cache())
    (folder / pki.PROGRAM).symlink_to(upstream_programs.build_small_program("pki", Architecture.native(), Cache()))
    return folder


@pytest.fixture(scope="module")
def agent(server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine that has joined and is a node."""
    root = make_machine(tmp_path_factory.mktemp("agent"))
    join.join_cluster(root, 60)
    as_node(root).call("POST", "/api/v1/nodes", {"metadata": {"name": AGENT}})
    return root


def as_node(root: Path) -> ApiServer:
    return api.connect_api(root, load_settings(root))


def anonymous(path: str) -> Any:
    """Read a path without credentials, and return the object, or the status code if that is refused."""
    unknown = ssl.create_default_context()
    unknown.check_hostname, unknown.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(URL + path, context=unknown, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code


def holder(plane: ControlPlane, identifier: str, secret: str) -> ApiServer:
    """Return the API server for the holder of a bootstrap token."""
    context = ssl.create_default_context(cafile=str(Paths(plane.root).authority))
    return ApiServer(URL, context, join_protocol.bearer_token(identifier, secret))


def by_token(plane: ControlPlane, identifier: str, secret: str, path: str) -> int:
    """Return the status code of a GET request by the holder of a bootstrap token."""
    try:
        holder(plane, identifier, secret).call("GET", path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def keys(plane: ControlPlane, token: str = TOKEN) -> tuple[join_protocol.Invitation, join_protocol.JoinKeys]:
    """What the cluster stores for the token of agent nodes, and the keys of this token."""
    server = api.connect_api(plane.root, load_settings(plane.root))
    maps = [join_discovery.get_config_map(server, location) for location in (AGENTS.public, AGENTS.private)]
    stored = join_protocol.stored_invitation(token, maps[0], maps[1])
    assert stored, "it is for another token"
    return stored


def test_a_stranger_reads_nothing_that_depends_on_the_token(server: ApiServer, plane: ControlPlane) -> None:
    namespace, name = AGENTS.public
    invitation, _ = keys(plane)
    public = anonymous(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
    authority = hashlib.sha256(Paths(plane.root).authority.read_bytes()).hexdigest()
    # Both others are random.
    assert public["data"] == {"salt": invitation.salt, "discovery": invitation.discovery, "authority": authority}
    assert anonymous("/api/v1/namespaces/kube-public/configmaps/cluster-info") == 403
    assert anonymous("/api/v1/namespaces/{}/configmaps/{}".format(*AGENTS.private)) == 403
    assert anonymous("/api/v1/namespaces/kube-public/configmaps") == 403


def test_credentials_sent_to_an_unverified_server_grant_nothing(server: ApiServer, plane: ControlPlane) -> None:
    invitation, secrets = keys(plane)
    private = "/api/v1/namespaces/{}/configmaps/{}".format(*AGENTS.private)
    assert by_token(plane, invitation.discovery, secrets.discovery, private) == 200
    assert by_token(plane, invitation.discovery, secrets.discovery, join.REQUESTS) == 403


def test_objects_of_an_earlier_version_for_joining_are_removed(server: ApiServer) -> None:
    names = [item["metadata"]["name"] for item in server.call("GET", SECRETS)["items"]]
    assert len(names) == 2 and "bootstrap-token-abcdef" not in names
    for path in join_objects.LEGACY:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            server.call("GET", path)


def test_a_machine_with_the_token_becomes_a_node(agent: Path) -> None:
    pair = Paths(agent).credentials
    assert pair.is_symlink(), "the kubelet renews it, and takes nothing else"
    subject = x509.load_pem_x509_certificate(pair.read_bytes()).subject.rfc4514_string()
    assert subject == f"CN=system:node:{AGENT},O=system:nodes"
    assert pair.stat().st_mode & 0o077 == 0
    assert as_node(agent).call("GET", f"/api/v1/nodes/{AGENT}")["metadata"]["name"] == AGENT


def test_a_node_that_lost_its_certificate_gets_another_with_its_key(agent: Path) -> None:
    pair = Paths(agent).credentials
    before = x509.load_pem_x509_certificate(pair.read_bytes()).public_key()
    pair.resolve().write_text("torn")
    join.join_cluster(agent, 60)
    assert x509.load_pem_x509_certificate(pair.read_bytes()).public_key() == before
    assert as_node(agent).call("GET", f"/api/v1/nodes/{AGENT}")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (f"DNS:{AGENT},IP:192.0.2.7", None),
        (f"DNS:{AGENT},IP:192.0.2.8", "192.0.2.8 is not the node's alone"),  # of another node too
        ("IP:192.0.2.9", "192.0.2.9 is not the node's alone"),
        ("DNS:kubernetes.default.svc", "kubernetes.default.svc is not the node's"),
        ("URI:https://192.0.2.7", "neither DNS names nor addresses"),
    ],
)
def test_a_kubelet_gets_a_serving_certificate_for_its_own_addresses_only(
    names: str, reason: str | None, agent: Path, server: ApiServer
) -> None:
    for node, addresses in ((AGENT, ["192.0.2.7", "192.0.2.8"]), ("neighbour", ["192.0.2.8"])):
        with contextlib.suppress(urllib.error.HTTPError):  # it exists
            server.call("POST", "/api/v1/nodes", {"metadata": {"name": node}})
        status = {"addresses": [{"type": f"InternalIP{number or ''}", "address": address}
                                for number, address in enumerate(addresses)]}  # fmt: skip
        server.call("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, kind=api.MERGE_PATCH)
    request = subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         "/dev/null", "-subj", f"/O=system:nodes/CN=system:node:{AGENT}", "-addext", f"subjectAltName={names}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body = {
        "metadata": {"generateName": "csr-"},
        "spec": {"request": base64.b64encode(request.stdout.encode()).decode(),
                 "signerName": "kubernetes.io/kubelet-serving", "usages": ["digital signature", "server auth"]},
    }  # fmt: skip
    try:
        name = as_node(agent).call("POST", join.REQUESTS, body)["metadata"]["name"]
    except urllib.error.HTTPError as error:
        assert reason and error.code in (400, 403, 422), "the API server itself refuses it"
        return
    if reason is None:
        signed = wait_for(
            lambda: join.signed_certificate(server.call("GET", f"{join.REQUESTS}/{name}")), "no answer", 60
        )
        assert "192.0.2.7" in str(x509.load_pem_x509_certificate(signed).extensions)
        return
    with pytest.raises(JoinError, match=reason):
        wait_for(lambda: join.signed_certificate(server.call("GET", f"{join.REQUESTS}/{name}")), "no answer", 60)


def test_another_machine_does_not_get_the_name_of_a_node(agent: Path, server: ApiServer, tmp_path: Path) -> None:
    thief = make_machine(tmp_path)
    with pytest.raises(Problem, match=f"kubectl delete node {AGENT}"):
        join.join_cluster(thief, 60)
    assert not Paths(thief).credentials.exists()


@pytest.mark.parametrize("registered", [False, True])
def test_no_machine_gets_the_name_of_the_server(
    registered: bool, agent: Path, server: ApiServer, tmp_path: Path
) -> None:
    if registered:
        server.call("POST", "/api/v1/nodes", {"metadata": {"name": NODE}})
    with pytest.raises(Problem, match="the name of the server node"):
        join.join_cluster(make_machine(tmp_path, NODE), 60)


def test_a_node_without_a_recorded_key_keeps_its_name(agent: Path, server: ApiServer, tmp_path: Path) -> None:
    """Like a node that joined before keys were recorded."""
    server.call("POST", "/api/v1/nodes", {"metadata": {"name": "older"}})
    with pytest.raises(Problem, match="kubectl delete node older"):
        join.join_cluster(make_machine(tmp_path, "older"), 60)


def test_the_name_of_a_deleted_node_is_free(agent: Path, server: ApiServer, tmp_path: Path) -> None:
    server.call("DELETE", f"/api/v1/nodes/{AGENT}")
    with pytest.raises(Problem, match="within the last hour"):
        join.join_cluster(make_machine(tmp_path / "early"), 60)
    record = json.loads(server.call("GET", RECORD)["data"][AGENT])
    old = json.dumps({**record, "since": "2026-01-01T00:00:00Z"})
    server.call("PATCH", RECORD, {"data": {AGENT: old}}, kind=api.MERGE_PATCH)
    successor = make_machine(tmp_path / "late")
    join.join_cluster(successor, 60)
    as_node(successor).call("POST", "/api/v1/nodes", {"metadata": {"name": AGENT}})


def test_a_request_for_more_than_a_nodes_rights_is_denied(agent: Path, server: ApiServer, plane: ControlPlane) -> None:
    request = subprocess.run(
        ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
         "/dev/null", "-subj", "/O=system:masters/CN=system:node:new"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    body = {
        "metadata": {"name": "greedy"},
        "spec": {"request": base64.b64encode(request.stdout.encode()).decode(), "signerName": join.SIGNER,
                 "usages": ["client auth"]},
    }  # fmt: skip
    invitation, secrets = keys(plane)
    try:
        holder(plane, invitation.join, secrets.join).call("POST", join.REQUESTS, body)
    except urllib.error.HTTPError as error:
        assert error.code in (403, 422), "the API server itself refuses it"
        return
    with pytest.raises(JoinError):
        wait_for(lambda: join.signed_certificate(server.call("GET", f"{join.REQUESTS}/greedy")), "no answer", 60)


def test_a_wrong_token_is_refused(agent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = make_machine(tmp_path, "new", "wrong")
    with pytest.raises(Problem, match="does not know this token") as caught:
        join.join_cluster(machine, 0)
    assert "edge-agent kubernetes token show" in str(caught.value.hint)
    assert capsys.readouterr().out.count("does not know this token") == 1, "it is in the journal at once"
    page = "\n".join(status.status_lines(status.collect_status(System(machine))))
    assert f"this node cannot join {URL}: the server does not know this token" in page
    assert "hint: `edge-agent kubernetes token show` on a server prints the current token" in page


def test_the_authority_is_pinned_through_a_full_token(agent: Path, plane: ControlPlane, tmp_path: Path) -> None:
    full = (plane.root / "var/lib/kubernetes/server/node-token").read_text().strip()
    assert full.endswith(f"::server:{TOKEN}")
    machine = make_machine(tmp_path / "pinned", "pinned", full)
    join.join_cluster(machine, 60)
    other = full.replace(full[3:67], "0" * 64)
    machine = make_machine(tmp_path / "other", "new", other)
    with pytest.raises(Problem, match="the token is for the authority K10000000000000") as caught:
        join.join_cluster(machine, 0)
    assert "kubernetes.server" in str(caught.value.hint) and not Paths(machine).authority.exists()
    found = read_failure(machine)
    assert found and found.kind == FailureKind.AUTHORITY
    # What everybody can read is not trusted: a server that lies there is found out by its authority.
    authority = find_cluster(URL, full, AGENTS).authority
    assert hash_authority(authority.encode()) == full[3:67]


def test_servers_and_agent_nodes_have_tokens_of_their_own(agent: Path, plane: ControlPlane, tmp_path: Path) -> None:
    configure_token(plane, TOKEN, OTHER)
    with pytest.raises(Problem, match="does not know this token"):
        join.join_cluster(make_machine(tmp_path / "token", "new"), 0)
    machine = make_machine(tmp_path / "agent-token", "other")
    write_settings(machine, {"role": "agent", "config": {"node-name": "other"}}, {"server": URL, "agent_token": OTHER})
    join.join_cluster(machine, 60)
    with pytest.raises(JoinError, match="does not know a token of this kind"):
        find_cluster(URL, TOKEN, SERVERS)  # no other server may join this datastore
    several = {"role": "server", "config": {"node-name": NODE, "cluster-init": True}}
    write_settings(plane.root, several, {"token": TOKEN, "agent_token": OTHER})
    join_objects.refresh_join_objects(plane.root)
    found = find_cluster(URL, TOKEN, SERVERS)
    assert found.authority == Paths(plane.root).authority.read_text()
    with pytest.raises(urllib.error.HTTPError, match="403"):
        found.api.call("GET", join.REQUESTS)  # it has the rights that its group gets, and no others
    with pytest.raises(JoinError):
        find_cluster(URL, OTHER, SERVERS)
    configure_token(plane, TOKEN)


def test_an_expired_token_is_refused_until_the_server_renews_it(
    agent: Path, server: ApiServer, plane: ControlPlane
) -> None:
    invitation, secrets = keys(plane)
    path, requests = f"/api/v1/namespaces/kube-system/secrets/bootstrap-token-{invitation.join}", join.REQUESTS
    assert by_token(plane, invitation.join, secrets.join, requests) == 200
    server.call("PATCH", path, {"stringData": {"expiration": "2026-01-01T00:00:00Z"}}, kind=api.MERGE_PATCH)
    wait_for(lambda: by_token(plane, invitation.join, secrets.join, requests) == 401, "it is still taken", 60)
    join_objects.refresh_join_objects(plane.root)
    wait_for(lambda: by_token(plane, invitation.join, secrets.join, requests) == 200, "it is not taken", 60)
    assert keys(plane) == (invitation, secrets), "the same token, with the same identifiers"


def test_a_created_token_is_for_agent_nodes_until_it_expires_or_is_revoked(
    agent: Path, server: ApiServer, plane: ControlPlane, tmp_path: Path
) -> None:
    full = token_command.create_token(plane.root, datetime.timedelta(hours=1), "for shop 7")
    identifier = full.partition("::")[2][:6]
    secret = full.rpartition(".")[2]
    (created,) = token_command.list_created(plane.root, load_settings(plane.root))
    assert (created.identifier, created.description) == (identifier, "for shop 7")
    left = datetime.datetime.fromisoformat(created.expires) - datetime.datetime.now(datetime.UTC)
    assert 3500 < left.total_seconds() <= 3600
    page = "\n".join(token_command.show_tokens(plane.root))
    assert identifier in page and secret not in page and f"::server:{TOKEN}" in page
    join_objects.refresh_join_objects(plane.root)  # as every day
    join.join_cluster(make_machine(tmp_path / "full", "created-full", full), 60)
    join.join_cluster(make_machine(tmp_path / "short", "created-short", full.partition("::")[2]), 60)
    with pytest.raises(Problem, match="there is no created token 'zzzzzz'"):
        token_command.revoke_token(plane.root, "zzzzzz")
    token_command.revoke_token(plane.root, identifier)
    assert list(join_objects.join_object_paths(server, identifier)) == []
    with pytest.raises(Problem, match=f"the created token {identifier}: it has expired or was revoked"):
        join.join_cluster(make_machine(tmp_path / "late", "created-late", full), 0)
    token_command.create_token(plane.root, datetime.timedelta(seconds=1), "")
    # The controller manager removes its Secrets, the next refresh the rest.
    wait_for(lambda: not token_command.list_created(plane.root, load_settings(plane.root)), "it is still there", 60)
    time.sleep(1)
    join_objects.refresh_join_objects(plane.root)
    labelled = server.call("GET", f"{MAPS}?labelSelector=edge-osbuild%2Fjoin")["items"]
    assert [item["metadata"]["name"] for item in labelled] == [AGENTS.public[1]]


def test_a_rotated_token_replaces_that_of_the_seed(agent: Path, plane: ControlPlane, tmp_path: Path) -> None:
    full = token_command.rotate_token(plane.root, TokenName.CLUSTER)
    assert (plane.root / "var/lib/kubernetes/server/token").read_text() == full + "\n"
    prepare.prepare_node(plane.root)  # as the next boot does
    join_objects.refresh_join_objects(plane.root)
    join.join_cluster(make_machine(tmp_path / "new", "rotated", full), 60)
    with pytest.raises(Problem, match="does not know this token"):
        join.join_cluster(make_machine(tmp_path / "old", "late"), 0)
    agents = token_command.rotate_token(plane.root, TokenName.AGENTS)
    with pytest.raises(Problem, match="does not know this token"):
        join.join_cluster(make_machine(tmp_path / "wrong", "late", full), 0)
    join.join_cluster(make_machine(tmp_path / "agents", "rotated-agent", agents), 60)
    configure_token(plane, OTHER)  # a new token in the seed wins, and agents have that of their own
    assert f"::server:{OTHER}" in (plane.root / "var/lib/kubernetes/server/token").read_text()
    join.join_cluster(make_machine(tmp_path / "again", "rotated-again", agents), 60)
    Paths(plane.root).rotated_tokens.unlink()
    configure_token(plane, TOKEN)


def test_no_server_offers_a_token_again_that_another_one_has_rotated(
    agent: Path, server: ApiServer, plane: ControlPlane, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # This server has SQLite, with which no other server can join it; its objects are those of a cluster with etcd.
    monkeypatch.setattr(server_settings, "check_servers", lambda settings, paths: None)
    several = {"role": "server", "node_ip": "192.0.2.1", "config": {"node-name": NODE, "cluster-init": True}}
    write_settings(plane.root, several, {"token": OTHER})
    full = token_command.rotate_token(plane.root, TokenName.CLUSTER)
    before = anonymous("/api/v1/namespaces/{}/configmaps/{}".format(*AGENTS.public))
    Paths(plane.root).rotated_tokens.unlink()  # like a server that knows the earlier token only
    assert join_objects.refresh_join_objects(plane.root) == []
    assert "was rotated on another one" in capsys.readouterr().out
    assert anonymous("/api/v1/namespaces/{}/configmaps/{}".format(*AGENTS.public))["data"] == before["data"]
    assert find_cluster(URL, full, SERVERS)
    configure_token(plane, TOKEN)


def test_a_token_that_is_no_longer_configured_is_removed(agent: Path, server: ApiServer, plane: ControlPlane) -> None:
    invitation, secrets = keys(plane)
    configure_token(plane, OTHER)
    replaced, _ = keys(plane, OTHER)
    assert replaced.salt != invitation.salt and replaced.join != invitation.join
    wait_for(lambda: by_token(plane, invitation.join, secrets.join, join.REQUESTS) == 401, "it is still taken", 60)
    configure_token(plane, None)
    assert server.call("GET", SECRETS)["items"] == []
    assert anonymous("/api/v1/namespaces/{}/configmaps/{}".format(*AGENTS.public)) == 403
    assert as_node(agent).call("GET", join.REQUESTS.rpartition("/")[0]), "nodes stay nodes"
