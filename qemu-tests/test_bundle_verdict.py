"""`inspect BUNDLE --keys` agrees with RAUC with a device's configuration, for bundles with every kind of defect."""

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
from osbuild.bundle.signing import Signing, prepare_signing
from osbuild.host.cache import Cache
from osbuild.host.run import Argument
from osbuild.image.rauc_config import DATA, KEYRING_FILE, render_system_conf
from osbuild.keys import authority, private_key
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.certificate import CertificateRequest, current_time, make_signer
from osbuild.keys.key_folder import KeyFolder, SignerEntry, load_keys
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error
from tests.support.builds import make_build, random_blocks

CACHE = Cache()


@dataclass(frozen=True)
class Bench:
    """A good bundle `good`, signed with `keys`, and a folder for other bundles."""

    folder: Path
    keys: KeyFolder
    tools: ToolsTree
    good: Path

    def signed(self, signing: Signing, *, manifest: Callable[[str], str] = str) -> bytes:
        """Make a bundle of the same content with a changed manifest, without the checks of `edge-osbuild bundle`."""
        with CACHE.scratch("bundles") as scratch:
            content_folder, bundle = scratch / "content", scratch / "b.raucb"
            content_folder.mkdir()
            content.write_content(source.read_build(self.folder / "build"), content_folder)
            text = (content_folder / "manifest.raucm").read_text()
            (content_folder / "manifest.raucm").write_text(manifest(text))
            arguments: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={pack.SQUASHFS}", content_folder, bundle]
            signing.run_rauc(self.tools, arguments, scratch, {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)})
            return bundle.read_bytes()

    def certified(self, name: str = "other", *, old: bool = False, purpose: bool = True) -> Signing:
        """Make a signer below the first root, with an expired certificate or one for another purpose."""
        root = self.keys.find_signer().root
        root_key = authority.root_key_of(self.keys, self.keys.find_root(root), PrivateKeyAccess())
        key = private_key.generate_key()
        public = key.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        valid = make_signer(self.keys.certificate(root), root_key, public, CertificateRequest("Example", name))
        begin, end = (current_time() - timedelta(days=730), current_time() - timedelta(days=365)) if old else (
            valid.not_valid_before_utc, valid.not_valid_after_utc,
        )  # fmt: skip
        builder = x509.CertificateBuilder(valid.issuer, valid.subject, public, valid.serial_number, begin, end)
        for extension in valid.extensions:
            value = extension.value
            if isinstance(value, x509.ExtendedKeyUsage) and not purpose:
                value = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
            builder = builder.add_extension(value, extension.critical)
        certificate = builder.sign(root_key, hashes.SHA256())
        return Signing(self.keys, SignerEntry(name, root), certificate, key)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder, tools = tmp_path_factory.mktemp("bench"), bundle_tools(CACHE)
    keys = authority.create_keys(folder / "keys", "Example", PrivateKeyAccess())
    build = make_build(folder / "build", root=random_blocks("root", 300))
    pack.make_bundle(source.read_build(build), folder / "good.raucb", prepare_signing(keys, tools), CACHE)
    return Bench(folder, keys, tools, folder / "good.raucb")


def make_revoked(bench: Bench) -> bytes:
    signing = bench.certified("signer-9")
    data = bench.signed(signing)
    keys = load_keys(bench.keys.folder)
    (keys.folder / "signer-9.crt").write_bytes(signing.certificate.public_bytes(serialization.Encoding.PEM))
    with_lost_signer = keys.with_signer(SignerEntry("signer-9", "root-1")).save()
    authority.revoke_key(with_lost_signer.folder, "signer-9", PrivateKeyAccess())
    keys.save()
    return data


def make_untrusted(bench: Bench) -> bytes:
    untrusted = authority.create_keys(bench.folder / "strange", "Stranger", PrivateKeyAccess())
    return bench.signed(prepare_signing(untrusted, bench.tools))


def flip_bit(offset: Callable[[int, int], int]) -> Callable[[Bench], bytes]:
    """Return a function that flips one bit of the good bundle, at `offset(begin, end)` of its hash tree."""

    def make(bench: Bench) -> bytes:
        data = bytearray(bench.good.read_bytes())
        end = len(data) - payload.LENGTH - int.from_bytes(data[-payload.LENGTH :], "big")
        tree = json.loads(bench.tools.run_command(
            ["rauc", "info", "--no-verify", "--output-format=json-2", "/run/b"], read_only_binds=[(bench.good,
            "/run/b")],
        ))["bundle"]["verity-size"]  # fmt: skip
        data[offset(end - tree, end)] ^= 0x10
        return bytes(data)

    return make


CASES: dict[str, Callable[[Bench], bytes]] = {
    "good": lambda bench: bench.good.read_bytes(),
    "expired": lambda bench: bench.signed(bench.certified(old=True)),
    "wrong purpose": lambda bench: bench.signed(bench.certified(purpose=False)),
    "wrong root": make_untrusted,
    "plain format": lambda bench: bench.signed(
        prepare_signing(bench.keys, bench.tools), manifest=lambda text: text.replace("format=verity", "format=plain")
    ),
    "payload changed": flip_bit(lambda data, end: data // 2),
    "first byte of the hash tree changed": flip_bit(lambda data, end: data),
    "last byte of the hash tree changed": flip_bit(lambda data, end: end - 1),
    "signature changed": flip_bit(lambda data, end: end + 100),
    "half of it": lambda bench: bench.good.read_bytes()[:200_000],
    "one byte less": lambda bench: bench.good.read_bytes()[:-1],
    "one byte more": lambda bench: bench.good.read_bytes() + b"\0",
    "only its magic": lambda bench: b"hsqs",
    "magic and zeros": lambda bench: b"hsqs" + bytes(2**20),
    "signature of no size": lambda bench: bench.good.read_bytes()[:-8] + bytes(8),
    "revoked": make_revoked,  # last, because it changes the keyring
}


@pytest.mark.parametrize("name", CASES)
def test_inspect_agrees_with_rauc(name: str, bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "b.raucb"
    path.write_bytes(CASES[name](bench))
    (tmp_path / "ring.pem").write_bytes(load_keys(bench.keys.folder).keyring())
    conf = render_system_conf("edge-osbuild-tiny-x86_64", boot="/efi").replace(
        f"/{KEYRING_FILE}", str(tmp_path / "ring.pem")
    )
    (tmp_path / "system.conf").write_text(conf.replace(f"/{DATA}", str(tmp_path)))
    try:  # checks signature and contents, like an installation
        bench.tools.run_command(
            ["rauc", f"--conf={tmp_path}/system.conf", "extract", path, tmp_path / "out"], [tmp_path]
        )
        accepted = True
    except Error:
        accepted = False
    assert accepted == (name == "good")
    with pytest.raises(SystemExit) as exit:
        cli.main(["inspect", str(path), "--keys", str(bench.keys.folder)])
    assert (exit.value.code == 0) == accepted
    output = capsys.readouterr()
    assert "should not happen" not in output.err
    assert accepted == ("PROBLEM" not in output.out and "signature:" not in output.out and not output.err)
