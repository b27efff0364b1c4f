"""`inspect BUNDLE --keys` says what RAUC says with a device's configuration, for bundles wrong in every way."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from osbuild import cli
from osbuild.bundle import content, pack, payload, source
from osbuild.bundle.programs import programs
from osbuild.bundle.signing import Signing, prepare
from osbuild.bundle.systemconf import DATA, KEYRING_FILE, system_conf
from osbuild.cache import Cache
from osbuild.errors import Error
from osbuild.keys import authority, private
from osbuild.keys.authority import Access
from osbuild.keys.certificate import make_signer, now
from osbuild.keys.store import Keys, Signer, load
from osbuild.run import Argument
from osbuild.tools import Tree
from tests.builds import build, noise

CACHE = Cache()


@dataclass(frozen=True)
class Bench:
    """A good bundle `good` of `keys`, and a folder for others."""

    folder: Path
    keys: Keys
    tools: Tree
    good: Path

    def signed(self, signing: Signing, *, manifest: Callable[[str], str] = str) -> bytes:
        """The same content, signed by `signing`, its manifest changed: without the checks of `edge-osbuild bundle`."""
        with CACHE.scratch("bundles") as scratch:
            inside, made = scratch / "content", scratch / "b.raucb"
            inside.mkdir()
            content.write(source.read(self.folder / "build"), inside)
            text = (inside / "manifest.raucm").read_text()
            (inside / "manifest.raucm").write_text(manifest(text))
            words: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={pack.SQUASHFS}", inside, made]
            signing.run(self.tools, words, scratch, {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)})
            return made.read_bytes()

    def certified(self, *, old: bool = False, purpose: bool = True) -> Signing:
        """A signer below the first root, with a certificate that is over or is for something else."""
        root = self.keys.the_signer().root
        root_key = authority.root_key_of(self.keys, self.keys.root(root), Access())
        key = private.generate()
        public = key.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        good = make_signer(self.keys.certificate(root), root_key, public, "Example", "other", development=False)
        begin, end = (now() - timedelta(days=730), now() - timedelta(days=365)) if old else (
            good.not_valid_before_utc, good.not_valid_after_utc,
        )  # fmt: skip
        builder = x509.CertificateBuilder(good.issuer, good.subject, public, good.serial_number, begin, end)
        for each in good.extensions:
            value = each.value
            if isinstance(value, x509.ExtendedKeyUsage) and not purpose:
                value = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(value, each.critical)
        certificate = builder.sign(root_key, hashes.SHA256())
        return Signing(self.keys, Signer("other", root), certificate, private.to_pem(key).decode())


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder, tools = tmp_path_factory.mktemp("bench"), programs(CACHE)
    keys = authority.init(folder / "keys", "Example", Access())
    made = build(folder / "build", root=noise("root", 300))
    pack.make(source.read(made), folder / "good.raucb", prepare(keys, tools), CACHE)
    return Bench(folder, keys, tools, folder / "good.raucb")


def revoked(bench: Bench) -> bytes:
    lost = bench.certified()
    data = bench.signed(lost)
    keys = load(bench.keys.folder)
    (keys.folder / "signer-9.crt").write_bytes(lost.certificate.public_bytes(serialization.Encoding.PEM))
    known = keys.with_signer(Signer("signer-9", "root-1")).save()
    authority.revoke(known.folder, "signer-9", Access())
    keys.save()
    return data


def strange(bench: Bench) -> bytes:
    other = authority.init(bench.folder / "strange", "Stranger", Access())
    return bench.signed(prepare(other, bench.tools))


def damaged(place: Callable[[int, int], int]) -> Callable[[Bench], bytes]:
    """The good bundle with one bit changed, at a place that depends on the sizes of its payload and hash tree."""

    def make(bench: Bench) -> bytes:
        data = bytearray(bench.good.read_bytes())
        end = len(data) - payload.LENGTH - int.from_bytes(data[-payload.LENGTH :], "big")
        tree = json.loads(bench.tools.run(
            ["rauc", "info", "--no-verify", "--output-format=json-2", "/run/b"], hidden=[(bench.good, "/run/b")],
        ))["bundle"]["verity-size"]  # fmt: skip
        data[place(end - tree, end)] ^= 0x10
        return bytes(data)

    return make


CASES: dict[str, Callable[[Bench], bytes]] = {
    "good": lambda bench: bench.good.read_bytes(),
    "expired": lambda bench: bench.signed(bench.certified(old=True)),
    "wrong purpose": lambda bench: bench.signed(bench.certified(purpose=False)),
    "wrong root": strange,
    "plain format": lambda bench: bench.signed(
        prepare(bench.keys, bench.tools), manifest=lambda text: text.replace("format=verity", "format=plain")
    ),
    "payload changed": damaged(lambda data, end: data // 2),
    "first byte of the hash tree changed": damaged(lambda data, end: data),
    "last byte of the hash tree changed": damaged(lambda data, end: end - 1),
    "signature changed": damaged(lambda data, end: end + 100),
    "half of it": lambda bench: bench.good.read_bytes()[:200_000],
    "one byte less": lambda bench: bench.good.read_bytes()[:-1],
    "one byte more": lambda bench: bench.good.read_bytes() + b"\0",
    "only its magic": lambda bench: b"hsqs",
    "magic and zeros": lambda bench: b"hsqs" + bytes(2**20),
    "signature of no size": lambda bench: bench.good.read_bytes()[:-8] + bytes(8),
    "revoked": revoked,  # the last one: it changes the keyring
}


@pytest.mark.parametrize("name", CASES)
def test_inspect_agrees_with_rauc(name: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.raucb"
    path.write_bytes(CASES[name](bench))
    (tmp_path / "ring.pem").write_bytes(load(bench.keys.folder).keyring())
    conf = system_conf("edge-osbuild-tiny-x86_64", boot="/efi").replace(f"/{KEYRING_FILE}", str(tmp_path / "ring.pem"))
    (tmp_path / "system.conf").write_text(conf.replace(f"/{DATA}", str(tmp_path)))
    try:  # this checks signature and contents, as an installation does
        bench.tools.run(["rauc", f"--conf={tmp_path}/system.conf", "extract", path, tmp_path / "out"], [tmp_path])
        accepted = True
    except Error:
        accepted = False
    assert accepted == (name == "good")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["inspect", str(path), "--keys", str(bench.keys.folder)])
    assert (stopped.value.code == 0) == accepted
    shown = capsys.readouterr()
    assert "should not happen" not in shown.err
    assert accepted == ("PROBLEM" not in shown.out and "signature:" not in shown.out and not shown.err)
