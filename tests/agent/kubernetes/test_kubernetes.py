"""The device side: from settings to what Kubernetes' programs read, joining by a token, and the health check."""

import base64
import datetime
import hashlib
import http.server
import ipaddress
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from osbuild.agent.errors import Problem
from osbuild.agent.kubernetes import control_plane, join, join_protocol, k3s, kubelet, prepare, readiness
from osbuild.agent.kubernetes import pki as keys
from osbuild.agent.kubernetes.join_protocol import JoinOffer
from osbuild.agent.kubernetes.paths import Paths
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE, load_settings, write_arguments, write_text
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.host.cache import Cache
from osbuild.kubernetes import upstream_programs as build
from osbuild.shared import join_token
from osbuild.shared.node_settings import NodeSettings

TOKEN = "a shared secret of any form"


def device(root: Path, image: dict[str, Any], seed: dict[str, Any] | None = None) -> Path:
    """A root with settings of the image and of the seed."""
    for name, content in ((IMAGE_FILE, image), (SEED_FILE, seed or {})):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(json.dumps(content))
    (root / "etc/hosts").write_text("127.0.0.1\tlocalhost\n")
    return root


@pytest.fixture(scope="session")
def pki() -> Path:
    """The program that makes keys, for this host."""
    return build.build_small_program("pki", Architecture.native(), Cache())


@pytest.fixture(scope="session")
def node_program(pki: Path) -> Path:
    """The program that agents check and request certificates with."""
    return build.build_small_program("node", Architecture.native(), Cache())


@pytest.fixture
def server(tmp_path: Path, pki: Path) -> Path:
    """The root of a server node, prepared."""
    root = device(tmp_path, {"role": "server", "config": {"node-name": "Node-1"}}, {"token": TOKEN})
    (root / keys.PROGRAM).symlink_to(pki)
    assert prepare.prepare_node(root)
    return root


def arguments(root: Path, name: str) -> list[str]:
    """The arguments of a unit, or of a program of the control plane."""
    folder = root / "run/edge-osbuild/kubernetes"
    if (folder / f"{name}.env").exists():
        return (folder / f"{name}.env").read_text().removeprefix("ARGS=").split()
    programs: dict[str, list[str]] = json.loads((folder / "server.json").read_text())["programs"]
    return programs[name]


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_the_seed_overrides_the_image_key_by_key(tmp_path: Path) -> None:
    image = {"role": "agent", "labels": {"a": "1"}, "taints": ["x:NoSchedule"], "server": None}
    settings = load_settings(
        device(tmp_path, image, {"server": "https://192.0.2.1:6443", "token": "t", "labels": {"b": "2"}})
    )
    assert (settings.role, settings.labels, settings.taints) == ("agent", {"b": "2"}, ("x:NoSchedule",))
    assert settings.server == "https://192.0.2.1:6443"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"role": "master"}, "role 'master'"),
        ({"role": "agent"}, "an agent node needs `server` and `token`"),
        ({"role": "server", "node_ip": "192.0.2"}, "node-ip"),
        ({"role": "server", "config": {"cluster-cidr": "10.42.0.1/16"}}, "cluster-cidr"),
    ],
)
def test_invalid_settings_are_reported(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(Problem, match=message):
        load_settings(device(tmp_path, settings))


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "text", "below a file"])
@pytest.mark.parametrize("name", [IMAGE_FILE, SEED_FILE])
def test_settings_that_are_not_a_file_are_reported(tmp_path: Path, kind: str, name: str) -> None:
    path = device(tmp_path, {"role": "server"}) / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "text":
        path.write_bytes(b"\xff")
    else:
        path.parent.rename(tmp_path / "aside")
        path.parent.write_text("")
    program = (
        "import sys; from pathlib import Path; from osbuild.agent.errors import Problem\n"
        "from osbuild.agent.kubernetes.settings import load_settings\n"
        "try: load_settings(Path(sys.argv[1]))\nexcept Problem as problem: print(problem.where, problem.hint)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    assert result.stdout.startswith(f"{path} ")


@pytest.mark.parametrize("word", ["", "--a=b c", "--a=\n", '--a="b"', "--a=\\n"])
def test_an_argument_that_systemd_would_change_is_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(Problem, match="systemd would change"):
        write_arguments(tmp_path / "x.env", ["--fine", word])


def test_addresses_come_from_the_service_range() -> None:
    settings = NodeSettings(role="server", config={"cluster-cidr": "10.9.0.0/16", "service-cidr": "10.8.0.0/24"})
    assert (settings.pod_cidrs, settings.api_services) == (["10.9.0.0/24"], ["10.8.0.1"])
    assert settings.cluster_dns == ["10.8.0.10"]
    config = {"cluster-cidr": "10.9.0.0/16,fd00:9::/56", "service-cidr": ["10.8.0.0/24", "fd00:8::/112"]}
    dual = NodeSettings(role="server", node_ip="192.0.2.7,fd00:1::7", config=config)
    assert (dual.pod_cidrs, dual.api_services) == (["10.9.0.0/24", "fd00:9::/64"], ["10.8.0.1", "fd00:8::1"])
    assert (dual.cluster_dns, dual.advertise_address) == (["10.8.0.10", "fd00:8::a"], "192.0.2.7")


def test_a_server_is_advertised_at_an_address_that_dhcp_cannot_change() -> None:
    assert NodeSettings(role="server").advertise_address == "203.0.113.254"
    assert NodeSettings(role="server", node_ip="192.0.2.7").advertise_address == "192.0.2.7"


def test_the_datastore_has_kines_own_parameters(server: Path) -> None:
    (endpoint,) = [word for word in arguments(server, "kine") if word.startswith("--endpoint=sqlite://")]
    for parameter in ("_journal_mode=WAL", "_busy_timeout=30000", "_synchronous=NORMAL", "_txlock=immediate"):
        assert parameter in endpoint
    assert "/var/lib/kubernetes/server/db/state.db?" in endpoint


def test_only_controllers_that_the_version_knows_are_disabled(server: Path) -> None:
    def told(version: str) -> set[str]:
        image = {"kubernetes": {"role": "server", "distribution": "upstream", "version": version}}
        (server / "usr/lib/edge-osbuild/image.json").write_text(json.dumps(image))
        prepare.prepare_node(server)
        (flag,) = [word for word in arguments(server, "kube-controller-manager") if word.startswith("--controllers=")]
        return set(flag.removeprefix("--controllers=").split(","))

    assert told("v1.36.3") - told("v1.35.4") == {f"-{name}" for name in control_plane.SINCE}
    assert {f"-{name}" for name in control_plane.IDLE_CONTROLLERS} < told("v1.37.0")


def test_files_are_flushed_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An authority that a power cut has left empty would keep an agent from its cluster for good."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(f"/proc/self/fd/{descriptor}").readlink()))
    write_text(tmp_path / "pki/ca.crt", "an authority")
    assert synced == [tmp_path / "pki/.ca.crt.new", tmp_path / "pki"]
    assert (tmp_path / "pki/ca.crt").read_text() == "an authority"


def test_a_second_preparation_changes_no_key(server: Path) -> None:
    data = server / "var/lib/kubernetes"
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert not prepare.prepare_node(server)
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def test_no_secret_can_be_read_by_others(server: Path) -> None:
    secrets = [*server.rglob("*.key"), *server.rglob("var/lib/kubernetes/*.conf")]
    assert len(secrets) > 10
    assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)


def test_the_server_certificate_contains_all_names_and_addresses(server: Path) -> None:
    names = certificate(server / "var/lib/kubernetes/pki/apiserver.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert {"localhost", "node-1", "kubernetes.default.svc"} <= set(names.value.get_values_for_type(x509.DNSName))
    addresses = {str(address) for address in names.value.get_values_for_type(x509.IPAddress)}
    assert {"127.0.0.1", "203.0.113.254", "10.43.0.1"} <= addresses


def test_a_new_name_gives_a_new_certificate_from_the_same_authority(server: Path) -> None:
    pki = server / "var/lib/kubernetes/pki"
    authority, client = (pki / "ca.crt").read_bytes(), (pki / "front-proxy-client.crt").read_bytes()
    device(server, {"role": "server", "config": {"node-name": "node-1", "tls-san": ["edge.example", "192.0.2.9"]}})
    prepare.prepare_node(server)
    names = certificate(pki / "apiserver.crt").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "edge.example" in names.get_values_for_type(x509.DNSName)
    assert ipaddress.ip_address("192.0.2.9") in names.get_values_for_type(x509.IPAddress)
    assert (pki / "ca.crt").read_bytes() == authority
    assert (pki / "front-proxy-client.crt").read_bytes() == client


def test_a_torn_pair_is_created_again_and_an_authority_without_key_is_an_error(server: Path) -> None:
    pki = server / "var/lib/kubernetes/pki"
    (pki / "apiserver.key").write_bytes((pki / "kubelet.key").read_bytes())
    (pki / "kubelet.crt").write_bytes(b"")
    assert prepare.prepare_node(server)
    for name in ("apiserver", "kubelet"):
        ssl.create_default_context().load_cert_chain(pki / f"{name}.crt", pki / f"{name}.key")
    (pki / "ca.key").unlink()
    with pytest.raises(Problem, match="its key is not"):
        prepare.prepare_node(server)


def test_a_key_left_by_a_power_cut_gets_its_certificate(server: Path) -> None:
    pki = server / "var/lib/kubernetes/pki"
    key = (pki / "ca.key").read_bytes()
    (pki / "ca.crt").unlink()
    assert prepare.prepare_node(server)
    assert (pki / "ca.key").read_bytes() == key


@pytest.mark.parametrize(("left", "renewed"), [(364, True), (366, False)])
def test_certificates_are_renewed_in_the_second_half_of_their_two_years(server: Path, left: int, renewed: bool) -> None:
    pki = server / "var/lib/kubernetes/pki"
    now = datetime.datetime.now(datetime.UTC)
    old = certificate(pki / "apiserver.crt")
    key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).serial_number(7)
    builder = builder.public_key(old.public_key()).not_valid_before(now - datetime.timedelta(days=300))
    builder = builder.not_valid_after(now + datetime.timedelta(days=left))
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    aged = builder.sign(key, hashes.SHA256())
    (pki / "apiserver.crt").write_bytes(aged.public_bytes(serialization.Encoding.PEM))
    assert prepare.prepare_node(server) == renewed
    assert (certificate(pki / "apiserver.crt").serial_number == 7) != renewed


def test_the_kubelets_settings_fit_a_read_only_system(tmp_path: Path) -> None:
    settings = NodeSettings(role="server", taints=("a=b:NoSchedule", "c:NoExecute"))
    config = kubelet.kubelet_config(settings, Paths(tmp_path))
    assert config["volumePluginDir"].startswith(f"{tmp_path}/var/")
    assert config["registerWithTaints"] == [
        {"key": "a", "value": "b", "effect": "NoSchedule"},
        {"key": "c", "effect": "NoExecute"},
    ]


def test_the_node_finds_its_own_name_without_a_name_server(server: Path) -> None:
    prepare.prepare_node(server)
    assert (server / "etc/hosts").read_text() == "127.0.0.1\tlocalhost\n127.0.1.1\tnode-1\n"


def test_the_load_balancer_has_its_own_rights_only_while_its_key_is_on(server: Path) -> None:
    data = server / "var/lib/kubernetes"
    assert arguments(server, "edge-load-balancer") == [f"{data}/admin.conf", "off"]
    assert not (data / "load-balancer.conf").exists()
    device(server, {"role": "server", "load_balancer": True, "config": {"node-name": "node-1"}})
    prepare.prepare_node(server)
    assert arguments(server, "edge-load-balancer") == [f"{data}/load-balancer.conf"]
    user = json.loads((data / "load-balancer.conf").read_text())["users"][0]["user"]
    subject = x509.load_pem_x509_certificate(base64.b64decode(user["client-certificate-data"])).subject
    assert subject.rfc4514_string() == "CN=edge-load-balancer", "a group would bring other rights"


def test_manifests_of_image_and_seed_are_applied(server: Path) -> None:
    for folder in prepare.MANIFESTS:
        (server / folder).mkdir(parents=True)
        (server / folder / "app.yaml").write_text("kind: List\n")
    prepare.prepare_node(server)
    folders = [str(server / folder) for folder in prepare.MANIFESTS]
    assert arguments(server, "apply") == ["--server", "node-1", *folders]


def test_what_earlier_manifests_contained_is_removed_if_there_are_none_any_more(server: Path) -> None:
    prepare.prepare_node(server)
    assert arguments(server, "apply") == ["--server", "node-1"]


def test_agent_nodes_may_join_only_while_a_token_is_configured(server: Path) -> None:
    assert arguments(server, "join") == [
        "approve", f"{server}/var/lib/kubernetes/admin.conf", "node-1"
    ]  # fmt: skip
    device(server, {"role": "server", "config": {"node-name": "node-1"}})
    prepare.prepare_node(server)
    assert not (server / "run/edge-osbuild/kubernetes/join.env").exists()


def test_a_server_has_the_token_files_of_k3s(server: Path) -> None:
    folder, authority = server / "var/lib/kubernetes/server", server / "var/lib/kubernetes/pki/ca.crt"
    digest = hashlib.sha256(authority.read_bytes()).hexdigest()
    full = f"K10{digest}::server:{TOKEN}\n"
    for name in ("token", "node-token", "agent-token"):
        assert (folder / name).read_text() == full
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    config = {"role": "server", "config": {"node-name": "node-1"}}
    device(server, config, {"token": full.strip(), "agent_token": "for agents"})
    prepare.prepare_node(server)
    assert (folder / "token").read_text() == full, "a full token is understood in the settings too"
    assert (folder / "agent-token").read_text() == f"K10{digest}::node:for agents\n"
    device(server, config, {"token": "abcdef.0123456789abcdef"})
    with pytest.raises(Problem, match="cannot have a created token"):
        prepare.prepare_node(server)
    device(server, config)
    prepare.prepare_node(server)
    assert not [*folder.glob("*token")]


def test_options_of_the_profile_override_the_k3s_configuration(tmp_path: Path) -> None:
    config = {"tls-san": "edge.example", "flannel-backend": "host-gw", "kubelet-arg": ["max-pods=20"]}
    root = device(tmp_path, {"role": "server", "disable": ["traefik"], "config": config}, {"token": TOKEN})
    (root / "usr/bin").mkdir()
    (root / "usr/bin/k3s").touch()
    (root / prepare.MANIFESTS[0]).mkdir(parents=True)
    (root / prepare.MANIFESTS[0] / "app.yaml").write_text("kind: List\n")
    prepare.prepare_node(root)
    path = root / "etc/rancher/k3s/config.yaml"
    written = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert written["data-dir"] == "/var/lib/kubernetes"
    assert written["container-runtime-endpoint"] == "unix:///run/containerd/containerd.sock"
    assert written["tls-san"] == ["203.0.113.254", "edge.example"]
    assert (written["kubelet-arg"][0], written["kubelet-arg"][-1]) == ("cgroup-driver=systemd", "max-pods=20")
    assert (written["flannel-backend"], written["token"]) == ("host-gw", TOKEN)
    assert written["disable"] == ["traefik", "servicelb"], "traefik once"
    assert (root / "var/lib/kubernetes/server/manifests/edge-app.yaml").read_text() == "kind: List\n"


def test_a_manifest_that_is_not_in_the_image_any_more_is_removed_for_k3s(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("1")
    goal = tmp_path / "manifests"
    k3s.sync_manifests([tmp_path / "one.yaml"], goal)
    (goal / "coredns.yaml").write_text("K3s' own")
    k3s.sync_manifests([], goal)
    assert [path.name for path in goal.iterdir()] == ["coredns.yaml"]


SALT = "00" * 16


@given(st.text(min_size=1))
def test_any_token_gives_valid_bootstrap_tokens(token: str) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(join_protocol.SCRYPT_COST, "n", 2)  # the next test is about the real cost
        keys = join_protocol.derive_keys(token, SALT)
        for secret in (keys.discovery, keys.join):
            assert len(secret) == 16 and set(secret) <= set(join_token.ALPHABET)
        assert keys.discovery != keys.join
        assert join_protocol.derive_keys(token, "01" * 16).join != keys.join, "another salt, other keys"


def test_guessing_a_token_is_expensive(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7914 and OWASP's advice for scrypt; a plain hash allowed 66,000 guesses a second."""
    parameters: dict[str, int] = {}
    scrypt = hashlib.scrypt
    monkeypatch.setattr(hashlib, "scrypt", lambda password, **how: parameters.update(how) or scrypt(password, **how))
    join_protocol.derive_keys(TOKEN, SALT)
    assert parameters["n"] * parameters["r"] * 128 >= 32 * 2**20


@pytest.mark.parametrize("salt", ["", "00", "zz" * 16, "00" * 65])
def test_an_invalid_salt_is_refused(salt: str) -> None:
    with pytest.raises(ValueError, match=r"salt|hex"):
        join_protocol.derive_keys(TOKEN, salt)


def offer_for(authority: str, token: str = TOKEN, purpose: join_protocol.Purpose = join_protocol.AGENTS) -> JoinOffer:
    invitation, keys = join_protocol.make_invitation(token)
    end = datetime.datetime(2026, 12, 8, tzinfo=datetime.UTC)
    return JoinOffer(purpose=purpose, invitation=invitation, keys=keys, authority=authority, expires=end)


def config_maps(offer: JoinOffer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The public and the private ConfigMap of an offer."""
    public, private = (item for item in join_protocol.join_objects(offer) if item["kind"] == "ConfigMap")
    return public, private


def test_an_invitation_is_kept_until_the_token_changes() -> None:
    offer = offer_for("PEM")
    public, private = config_maps(offer)
    assert join_protocol.stored_invitation(TOKEN, public, private) == (offer.invitation, offer.keys)
    assert join_protocol.stored_invitation("another", public, private) is None
    assert join_protocol.stored_invitation(TOKEN, {"data": {"salt": "1"}}, private) is None, "damaged"
    other, _ = join_protocol.make_invitation(TOKEN)
    first = offer.invitation
    assert {first.salt, first.join, first.discovery}.isdisjoint({other.salt, other.join, other.discovery})
    assert TOKEN not in json.dumps(join_protocol.join_objects(offer))


def test_tokens_in_the_cluster_expire() -> None:
    secrets = [item for item in join_protocol.join_objects(offer_for("PEM")) if item["kind"] == "Secret"]
    ends = {base64.b64decode(secret["data"]["expiration"]).decode() for secret in secrets}
    assert len(secrets) == 2 and ends == {"2026-12-08T00:00:00Z"}


def test_no_purpose_gives_access_to_what_depends_on_the_token_of_another() -> None:
    purposes = (join_protocol.AGENTS, join_protocol.SERVERS, join_protocol.created_purpose("abcdef"))
    assert len({purpose.discovery for purpose in purposes}) == 3
    for purpose in purposes:
        assert purpose.group != purpose.discovery
        objects = join_protocol.join_objects(offer_for("PEM", purpose=purpose))
        bindings = [item for item in objects if item["kind"] == "RoleBinding"]
        readers = {(item["roleRef"]["name"], item["subjects"][0]["name"]) for item in bindings}
        name = purpose.private[1]
        assert readers == {(name, "system:unauthenticated"), (name, purpose.discovery)}
    assert join_protocol.SERVERS.group != join_protocol.AGENTS.group, "only agent nodes get certificates of a kubelet"


def answer(authority: str) -> tuple[join_protocol.JoinKeys, dict[str, Any]]:
    """What a server tells a holder of the token about its cluster."""
    offer = offer_for(authority)
    return offer.keys, config_maps(offer)[1]


def test_an_agent_node_trusts_an_authority_that_is_signed_with_the_token() -> None:
    keys, info = answer("-----BEGIN CERTIFICATE-----\n")
    assert join_protocol.read_authority(keys, info) == ("-----BEGIN CERTIFICATE-----\n", info["data"]["join"])


@pytest.mark.parametrize("change", ["authority", "join", "signature", "token", "nothing"])
def test_an_agent_node_trusts_no_other_authority(change: str) -> None:
    keys, info = answer("authority")
    if change == "token":
        keys = join_protocol.derive_keys("another", SALT)
    elif change == "nothing":
        info["data"] = {}
    else:
        info["data"][change] = info["data"][change][:-2] + "xx"
    with pytest.raises(ValueError, match="signed with another token"):
        join_protocol.read_authority(keys, info)


@pytest.fixture
def api(server: Path, tmp_path: Path) -> Iterator[Callable[[dict[str, Any]], int]]:
    """An HTTPS server with the node's own certificates that asks for a client's, and answers as it is told."""
    pki = server / "var/lib/kubernetes/pki"
    answers: dict[str, Any] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = answers.get(self.path)
            self.send_response(404 if content is None else 200)
            self.end_headers()
            self.wfile.write(content.encode() if isinstance(content, str) else json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "apiserver.crt", pki / "apiserver.key")
    context.load_verify_locations(pki / "ca.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()

        def tell(content: dict[str, Any]) -> int:
            answers.update(content)
            return int(running.server_address[1])

        yield tell
        running.shutdown()
        thread.join()


NODE = "/api/v1/nodes/node-1"


def node(status: str, boot_id: str | None = None) -> dict[str, Any]:
    own = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    condition = {"type": "Ready", "status": status, "message": "network plugin is not ready"}
    return {"status": {"nodeInfo": {"bootID": boot_id or own}, "conditions": [condition]}}


def use_api_server(server: Path, port: int) -> None:
    """Write the kubeconfig of a server node for an API server on `port` of this host."""
    kubeconfig = server / readiness.KUBECONFIGS["server"][0]
    kubeconfig.parent.mkdir(parents=True, exist_ok=True)
    text = (server / "var/lib/kubernetes/admin.conf").read_text()
    kubeconfig.write_text(text.replace("127.0.0.1:6443", f"127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({NODE: node("True")}, None),
        ({NODE: node("False")}, "not Ready: network plugin is not ready"),
        ({NODE: node("True", "another boot")}, "has not reported since this boot"),
        ({}, "the cluster has no node node-1 yet"),
    ],
)
def test_the_health_check_reports_why_the_node_is_not_ready(
    server: Path, api: Callable[[dict[str, Any]], int], answers: dict[str, Any], reason: str | None
) -> None:
    use_api_server(server, api(answers))
    explanation = readiness.explain_not_ready(server)
    assert explanation is None if reason is None else reason in str(explanation)


@pytest.mark.parametrize(
    ("configs", "subnet", "waits"),
    [
        (["10-flannel.conflist"], False, True),
        (["10-flannel.conflist"], True, False),
        (["10-flannel.conflist", "20-other.conflist"], False, True),
        # What another CNI plugin needs is not known here. containerd uses the first file.
        (["05-calico.conflist", "10-flannel.conflist"], False, False),
        ([".tmp", "README", "10-flannel.conflist"], False, True),
        ([], False, False),
    ],
)
def test_a_k3s_node_that_is_ready_before_flannel_gives_addresses_is_not_healthy_yet(
    server: Path, api: Callable[[dict[str, Any]], int], configs: list[str], subnet: bool, waits: bool
) -> None:
    use_api_server(server, api({NODE: node("True")}))
    for name in configs:
        path = server / "var/lib/kubernetes/agent/etc/cni/net.d" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    if subnet:
        (server / "run/flannel").mkdir(parents=True)
        (server / "run/flannel/subnet.env").write_text("FLANNEL_SUBNET=10.42.0.1/24\n")
    explanation = readiness.await_ready(server, 0.2, 0.05)
    assert ("flannel has not written" in str(explanation)) == waits
    assert explanation is None or waits


def test_the_health_check_may_wait_for_a_node_to_become_ready(
    server: Path, api: Callable[[dict[str, Any]], int]
) -> None:
    use_api_server(server, api({NODE: node("False")}))
    assert "not Ready" in str(readiness.await_ready(server, 0.2, 0.05))
    threading.Timer(0.3, api, [{NODE: node("True")}]).start()
    assert readiness.await_ready(server, 30, 0.05) is None


def test_the_health_check_reads_the_kubeconfig_of_k3s_too() -> None:
    text = (
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: QUJD\n"
        "    server: https://127.0.0.1:6443\n  name: default\nusers:\n- name: default\n  user:\n"
        "    client-certificate: /var/lib/x.crt\n    client-key-data: REVG\n"
    )
    assert readiness.kubeconfig_value(text, "server") == "https://127.0.0.1:6443"
    assert readiness.kubeconfig_content(text, "certificate-authority") == b"ABC"
    assert readiness.kubeconfig_value(text, "client-certificate") == "/var/lib/x.crt"
    assert readiness.kubeconfig_content(text, "client-key") == b"DEF"


def test_waiting_ends_when_the_api_server_is_ready(server: Path, api: Callable[[dict[str, Any]], int]) -> None:
    use_api_server(server, api({}))
    waiting = threading.Thread(target=readiness.await_api, args=(server, 0.05), daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    api({"/readyz": "ok"})
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_stopped_api_server_is_reported(server: Path) -> None:
    use_api_server(server, 9)
    assert "does not answer" in str(readiness.explain_not_ready(server))


def test_addresses_are_read_from_the_tables_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 192.0.2.15\n"
        "        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n     |-- 10.42.0.1\n"
        "        /32 host LOCAL\n"
    )
    assert keys.local_addresses(NodeSettings(role="server"), tmp_path) == ["192.0.2.15"], "a kernel without IPv6"
    (tmp_path / "if_inet6").write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "20010db8000000010000000000000015 02 40 00 00     eth0\n"
        "20010db80000000100000000000000aa 02 40 00 40     eth0\n"  # tentative: the boot has just begun
        "20010db80000000123456789abcdef01 02 40 00 01     eth0\n"  # temporary
        "20010db80000000100000000000000dd 02 40 00 88     eth0\n"  # a duplicate
        "fe80000000000000505400fffeed9e01 02 40 20 80     eth0\n"
        "fd000042000000000000000000000001 05 40 00 80     cni0\n"
    )
    settings = NodeSettings(role="server", config={"cluster-cidr": "10.42.0.0/16,fd00:42::/56"})
    assert keys.local_addresses(settings, tmp_path) == ["192.0.2.15", "2001:db8:0:1::15", "2001:db8:0:1::aa"]


def test_a_new_address_is_added_to_the_server_certificate_without_a_restart(server: Path) -> None:
    device(server, {"role": "server", "config": {"node-name": "node-1", "tls-san": "2001:db8::7"}})
    assert not prepare.prepare_node(server), "the API server reads its certificate again by itself"
    names = certificate(server / "var/lib/kubernetes/pki/apiserver.crt").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    own = {address for address in keys.local_addresses(NodeSettings(role="server")) if ":" in address}
    assert {"2001:db8::7", *own} <= {str(one) for one in names.value.get_values_for_type(x509.IPAddress)}


def dated(pki: Path, name: str, begin: datetime.timedelta, end: datetime.timedelta) -> bytes:
    """Have a certificate of the authority as a clock that was wrong would have dated it; its bytes before."""
    path = pki / f"{name}.crt"
    before, old, now = path.read_bytes(), certificate(path), datetime.datetime.now(datetime.UTC)
    key = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateBuilder().subject_name(old.subject).issuer_name(old.issuer).serial_number(7)
    builder = builder.public_key(old.public_key()).not_valid_before(now + begin).not_valid_after(now + end)
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return before


DAYS = [(300, 1100), (-2000, -1200)]
"""from now to begin and end of what was issued by a clock that is ahead, and by one that is behind"""


@pytest.mark.parametrize(("begin", "end"), DAYS)
def test_certificates_with_wrong_dates_are_issued_again(server: Path, begin: int, end: int) -> None:
    pki, span = server / "var/lib/kubernetes/pki", (datetime.timedelta(begin), datetime.timedelta(end))
    for name in ("ca", "apiserver", "kubelet"):
        dated(pki, name, *span)
    key = (pki / "ca.key").read_bytes()
    assert prepare.prepare_node(server), "Kubernetes must start again"
    now = datetime.datetime.now(datetime.UTC)
    for name in ("ca", "apiserver", "kubelet"):
        reissued = certificate(pki / f"{name}.crt")
        assert reissued.not_valid_before_utc < now < reissued.not_valid_after_utc, name
    assert (pki / "ca.key").read_bytes() == key, "what the authority has signed stays signed"
    admin = json.loads((server / "var/lib/kubernetes/admin.conf").read_text())
    embedded = base64.b64decode(admin["clusters"][0]["cluster"]["certificate-authority-data"])
    assert embedded.strip() == (pki / "ca.crt").read_bytes().strip()
    assert not prepare.prepare_node(server)


@pytest.mark.parametrize(("begin", "end"), DAYS)
def test_an_agent_node_detects_certificates_with_wrong_dates(
    server: Path, node_program: Path, begin: int, end: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pki = server / "var/lib/kubernetes/pki"
    root = device(tmp_path_factory.mktemp("agent"), {"role": "agent", "server": "https://x", "token": "t"})
    (root / join.PROGRAM).parent.mkdir(parents=True, exist_ok=True)
    (root / join.PROGRAM).symlink_to(node_program)
    settings, files = NodeSettings(role="agent", node_name="node-1"), Paths(root)
    assert "no such file" in join.explain_unusable(settings, files)
    user = json.loads((server / "var/lib/kubernetes/kubelet.conf").read_text())["users"][0]["user"]
    pair = b"".join(base64.b64decode(user[f"client-{part}-data"]) for part in ("certificate", "key"))
    write_text(files.authority, (pki / "ca.crt").read_text())
    join.store_credentials(files, pair)
    assert join.explain_unusable(settings, files) == ""
    assert "it belongs to system:node:node-1" in join.explain_unusable(NodeSettings(node_name="node-2"), files)
    before = dated(pki, "ca", datetime.timedelta(begin), datetime.timedelta(end))
    write_text(files.authority, (pki / "ca.crt").read_text())
    assert re.search("not valid before|has expired", join.explain_unusable(settings, files))
    write_text(files.authority, before.decode())
    write_text(files.credentials.resolve(), "torn")
    assert join.explain_unusable(settings, files)


def test_certificates_are_checked_after_a_clock_change() -> None:
    """systemd.timer(5): OnClockChange= elapses when the system clock jumps."""
    timer = paths.PROJECT / "overlays/kubernetes/usr/lib/systemd/system/edge-kubernetes-renew.timer"
    assert "OnClockChange=yes" in timer.read_text()


def test_the_restart_that_a_renewal_asks_for_does_not_start_the_renewal_again() -> None:
    """systemd.unit(5): what requires a unit that is restarted is restarted with it, until nothing has to be renewed."""
    unit = paths.PROJECT / "overlays/kubernetes/usr/lib/systemd/system/edge-kubernetes-renew.service"
    names = {line.partition("=")[0] for line in unit.read_text().splitlines()}
    assert not names & {"Requires", "Requisite", "BindsTo", "PartOf"}
