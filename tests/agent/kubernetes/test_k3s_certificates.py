"""What a wrong clock has dated of K3s' certificates is issued again before K3s starts, with real keys and openssl."""

import base64
import datetime
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.agent.__main__ import main
from osbuild.agent.kubernetes.settings import IMAGE_FILE, SEED_FILE
from tests.support.kine import Kine, start_kine

AHEAD, BEHIND = (3000, 6650), (-6000, -2350)  # days from now to begin and end of what such a clock dates
AUTHORITIES = ("client-ca", "server-ca", "request-header-ca", "etcd/server-ca", "etcd/peer-ca")
RESTART = [("restart", "--no-block", "kubernetes.target")]
AUTHORITIES_MADE: dict[tuple[str, float, float], tuple[ec.EllipticCurvePrivateKey, x509.Certificate]] = {}
LEAVES_MADE: dict[tuple[bytes, str, tuple[float, float]], x509.Certificate] = {}


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def is_valid(path: Path) -> bool:
    certificate, now = read(path), datetime.datetime.now(datetime.UTC)
    return certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc


class Issuer:
    """An authority as K3s makes it: its certificate and key in files, with the name and extensions of K3s' own.

    Tests share authorities and what these issue, because openssl has to be started for each certificate.
    """

    def __init__(self, path: Path, begin: float, end: float) -> None:
        self.path, self.days = path, (begin, end)
        self.name = name(f"k3s-{path.stem}@1764392867")
        place = "/".join(path.parts[-2:]), begin, end
        if place not in AUTHORITIES_MADE:
            self.key = ec.generate_private_key(ec.SECP256R1())
            AUTHORITIES_MADE[place] = self.key, self.sign(self.name, self.key.public_key(), None)
        self.key, self.certificate = AUTHORITIES_MADE[place]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pem(self.certificate))
        text = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        path.with_suffix(".key").write_bytes(self.key.private_bytes(serialization.Encoding.PEM, *text))

    def sign(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, days: tuple[float, float] | None
    ) -> x509.Certificate:
        """A certificate by this authority; of the authority itself without `days`."""
        begin, end = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(each) for each in days or self.days)
        built = x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(key)
        built = built.serial_number(5 if days else 1).not_valid_before(begin).not_valid_after(end)
        built = built.add_extension(x509.BasicConstraints(ca=days is None, path_length=None), critical=True)
        if days is None:
            built = built.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        return built.sign(self.key, hashes.SHA256())

    def issue(self, path: Path, days: tuple[float, float]) -> bytes:
        """A certificate with its key, as K3s keeps them: followed by that of the authority."""
        place = pem(self.certificate), path.stem, days
        if place not in LEAVES_MADE:
            LEAVES_MADE[place] = self.sign(name(path.stem), ec.generate_private_key(ec.SECP256R1()).public_key(), days)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = pem(LEAVES_MADE[place]) + pem(self.certificate)
        path.write_bytes(content)
        path.with_suffix(".key").write_text("-----BEGIN EC PRIVATE KEY-----\nMHcC\n-----END EC PRIVATE KEY-----\n")
        return content


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemd is asked for."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr("osbuild.agent.kubernetes.prepare.systemctl", lambda *arguments: commands.append(arguments))
    return commands


def device(root: Path, **settings: Any) -> Path:
    """A root with K3s; its folder of data."""
    seed = {"token": "secret", "config": settings.pop("config", {})}
    for place, content in ((IMAGE_FILE, {"role": "server", **settings}), (SEED_FILE, seed)):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_text(json.dumps(content))
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/k3s").touch()
    return root / "var/lib/kubernetes"


def server(data: Path, days: tuple[float, float]) -> dict[str, Issuer]:
    """The files of a server that a clock has dated: K3s' certificates begin with their authority's."""
    tls = data / "server/tls"
    issuers = {each: Issuer(tls / f"{each}.crt", *days) for each in AUTHORITIES}
    leaf = (days[0], days[0] + 365)
    issuers["client-ca"].issue(tls / "client-admin.crt", leaf)
    issuers["server-ca"].issue(tls / "serving-kube-apiserver.crt", leaf)
    issuers["etcd/peer-ca"].issue(tls / "etcd/peer-server-client.crt", leaf)
    issuers["client-ca"].issue(data / "agent/client-kubelet.crt", leaf)
    (tls / "client-ca.nochain.crt").write_bytes((tls / "client-ca.crt").read_bytes())
    (data / "agent/server-ca.crt").write_bytes((tls / "server-ca.crt").read_bytes())
    dynamic = issuers["server-ca"].issue(data / "dynamic.crt", leaf)
    secret = {"type": "kubernetes.io/tls", "data": {"tls.crt": base64.b64encode(dynamic).decode()}}
    (tls / "dynamic-cert.json").write_text(json.dumps(secret))
    with start_kine(data / "server/db/state.db") as kine:
        kine.put("/bootstrap/5d4a01c4c1f5", b"encrypted authorities")
        kine.put("/registry/configmaps/default/a", b"an object")
    return issuers


def run(root: Path, action: str) -> None:
    assert main(["kubernetes", "--root", str(root), action]) == 0


def objects(data: Path) -> dict[str, bytes]:
    with start_kine(data / "server/db/state.db") as kine:
        return kine.objects()


def snapshot(data: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in data.rglob("*") if path.is_file() and "state.db" not in path.name}


@pytest.mark.parametrize("days", [AHEAD, BEHIND])
def test_reissued_authorities_keep_name_and_key_and_k3s_issues_the_rest(
    tmp_path: Path, days: tuple[float, float]
) -> None:
    data = device(tmp_path)
    issuers = server(data, days)
    keys = {path: path.read_bytes() for path in data.rglob("*.key")}
    run(tmp_path, "prepare")
    for each, authority in issuers.items():
        reissued = read(authority.path)
        assert is_valid(authority.path), each
        assert (reissued.subject, reissued.issuer) == (authority.name, authority.name)
        assert {one.oid: one.value for one in reissued.extensions} == {
            one.oid: one.value for one in authority.certificate.extensions
        }
        assert reissued.serial_number != authority.certificate.serial_number
        reissued.verify_directly_issued_by(reissued)
        authority.sign(name("an agent's"), authority.key.public_key(), (-1, 1)).verify_directly_issued_by(reissued)
    tls = data / "server/tls"
    left = {str(path.relative_to(data)) for path in data.rglob("*.crt") if "-ca." not in path.name}
    if days == AHEAD:
        assert left == {"dynamic.crt", "agent/client-kubelet.crt"}, "what K3s lacks it issues when it starts"
        assert (tls / "dynamic-cert-regenerate").exists()
    else:
        assert "server/tls/client-admin.crt" in left, "what has ended K3s renews when it starts"
    assert {path: path.read_bytes() for path in data.rglob("*.key")} == keys
    assert objects(data) == {"/registry/configmaps/default/a": b"an object"}, "K3s would put the old ones back"
    before = snapshot(data)
    run(tmp_path, "prepare")
    after = snapshot(data)
    assert after == before


def test_a_clock_that_jumps_back_restarts_k3s_without_changes_while_it_runs(
    tmp_path: Path, restarts: list[tuple[str, ...]]
) -> None:
    data = device(tmp_path)
    server(data, AHEAD)
    run(tmp_path, "prepare")
    server(data, AHEAD)
    (data / "server/tls/dynamic-cert-regenerate").unlink()
    before, known = snapshot(data), objects(data)
    run(tmp_path, "renew")
    assert restarts == RESTART
    assert (snapshot(data), objects(data)) == (before, known)
    run(tmp_path, "prepare")  # as the restart does, K3s being stopped
    shutil.rmtree(data / "agent")  # which K3s makes anew
    run(tmp_path, "renew")
    assert restarts == RESTART, "once"


def test_a_single_certificate_may_have_wrong_dates(tmp_path: Path) -> None:
    """Newer K3s dates a certificate an hour before it is issued, not from the day of its authority."""
    data = device(tmp_path)
    issuers = server(data, (-10, 3640))
    wrong, good = data / "server/tls/client-admin.crt", data / "server/tls/serving-kube-apiserver.crt"
    issuers["client-ca"].issue(wrong, (300, 665))
    authorities = {each: authority.path.read_bytes() for each, authority in issuers.items()}
    run(tmp_path, "prepare")
    assert (wrong.exists(), good.exists()) == (False, True)
    assert {each: authority.path.read_bytes() for each, authority in issuers.items()} == authorities
    assert "/bootstrap/5d4a01c4c1f5" in objects(data)


def test_certificates_that_become_valid_soon_are_kept(tmp_path: Path, restarts: list[tuple[str, ...]]) -> None:
    data = device(tmp_path)
    server(data, (2 / 1440, 3650))
    before = snapshot(data)
    run(tmp_path, "prepare")
    run(tmp_path, "renew")
    assert {path: content for path, content in snapshot(data).items() if path in before} == before
    assert restarts == []


def chain(data: Path) -> None:
    """An authority of one's own, signed by another, as `k3s certificate rotate-ca` leaves it."""
    root = Issuer(data / "root.crt", *AHEAD)
    path = data / "server/tls/server-ca.crt"
    key = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(pem(root.sign(name("intermediate"), key.public_key(), AHEAD)) + pem(root.certificate))


def bundle(data: Path) -> None:
    path = data / "server/tls/server-ca.crt"
    path.write_bytes(path.read_bytes() * 2)


def keyless(data: Path) -> None:
    (data / "server/tls/server-ca.key").unlink()


def etcd(data: Path) -> None:
    (data / "server/db/etcd").mkdir()


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (chain, {}),
        (bundle, {}),
        (keyless, {}),
        (etcd, {}),
        (None, {"config": {"datastore-endpoint": "nats://192.0.2.9"}}),
        (None, {"config": {"cluster-init": True}}),
        (None, {"server": "https://192.0.2.1:6443"}),
    ],
)
def test_authorities_that_this_node_cannot_issue_are_only_reported(
    tmp_path: Path, restarts: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str], change: Any, settings: Any
) -> None:
    data = device(tmp_path, **settings)
    server(data, AHEAD)
    if change:
        change(data)
    before, known = snapshot(data), objects(data)
    run(tmp_path, "prepare")
    assert {path: content for path, content in snapshot(data).items() if path in before} == before
    assert objects(data) == known
    assert "-ca.crt: not valid before" in capsys.readouterr().out
    run(tmp_path, "renew")
    assert restarts == [], "it would not help"


def test_an_agent_node_restarts_and_gets_new_certificates_from_its_server(
    tmp_path: Path, restarts: list[tuple[str, ...]]
) -> None:
    data = device(tmp_path, role="agent", server="https://192.0.2.1:6443")
    authority = Issuer(data / "agent/client-ca.crt", *AHEAD)
    authority.issue(data / "agent/client-kubelet.crt", AHEAD)
    before = snapshot(data)
    run(tmp_path, "prepare")
    run(tmp_path, "renew")
    assert (restarts, snapshot(data)) == (RESTART, before)
    Issuer(data / "agent/client-ca.crt", -1, 3649).issue(data / "agent/client-kubelet.crt", (-1, 364))
    run(tmp_path, "renew")
    assert restarts == RESTART


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"data": 5}', '{"data": {"tls.crt": "AAAA"}}', '{"data": {"tls.crt": "!"}}']
)
def test_a_damaged_certificate_of_the_port_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    data = device(tmp_path)
    issuers = server(data, AHEAD)
    (data / "server/tls/dynamic-cert.json").write_text(content)
    run(tmp_path, "prepare")
    assert all(is_valid(authority.path) for authority in issuers.values())
    assert "dynamic-cert.json" in capsys.readouterr().out


def test_the_next_start_repairs_the_state_after_any_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = device(tmp_path)
    issuers = server(data, AHEAD)
    steps, left = ["unlink", "rename"], 0

    class Cut(BaseException):
        pass

    def cut(act: Any) -> Any:
        def step(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if "kubernetes" in str(arguments[0]) and "run/" not in str(arguments[0]):
                left -= 1
                if left < 0:
                    raise Cut
            return act(*arguments, **options)

        return step

    for number in range(40):
        with monkeypatch.context() as patch:
            left = number % 7
            for each in steps:
                patch.setattr(Path, each, cut(getattr(Path, each)))
            try:
                run(tmp_path, "prepare")
                break
            except Cut:
                continue
    else:
        pytest.fail("it is never done")
    assert number > 2
    assert all(is_valid(authority.path) for authority in issuers.values())
    useless = {path.name for path in data.rglob("*.crt") if not is_valid(path)}  # which K3s replaces at every start
    assert useless == {"client-ca.nochain.crt", "server-ca.crt", "client-kubelet.crt", "dynamic.crt"}
    assert "/bootstrap/5d4a01c4c1f5" not in objects(data)


def test_objects_are_deleted_like_kine_does(tmp_path: Path) -> None:
    data = device(tmp_path)
    server(data, AHEAD)
    path = data / "server/db/state.db"
    text = (
        "SELECT name, created, deleted, create_revision, prev_revision, lease, value, old_value FROM kine WHERE id = ?"
    )
    with start_kine(path) as kine:
        kine.put("/bootstrap/other", b"more")
        kine.put("/bootstrap/other", b"even more")
        last = kine.newest("/bootstrap/other")
    run(tmp_path, "prepare")
    with start_kine(path) as kine:
        row = kine.newest("/bootstrap/other")
        assert last and row and row[2], "deleted"
        assert kine.database.execute(text, (row[0],)).fetchone() == (
            "/bootstrap/other", 0, 1, 0, last[0], 0, None, b"even more",
        )  # fmt: skip
        assert Kine(kine.database).put("/bootstrap/other", b"again") > row[0]
