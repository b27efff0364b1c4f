"""What an uploaded bundle must be: signed by a certificate of the server's keyring, with a manifest of one meaning."""

import re
import subprocess
from pathlib import Path

import pytest

from osbuild.fleet.bundle_check import check_bundle
from osbuild.fleet.refusal import Refused
from osbuild.keys.authority import PrivateKeyAccess, create_keys
from osbuild.keys.key_folder import KeyFolder, load_keys
from tests.support.checkout import PROJECT
from tests.support.signed_bundles import make_bundle


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFolder:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    create_keys(folder, "Example", PrivateKeyAccess())
    return load_keys(folder)


def refusal_of(path: Path, keys: KeyFolder) -> Refused:
    keyring = path.with_suffix(".pem")
    keyring.write_bytes(keys.keyring())
    with pytest.raises(Refused) as caught:
        check_bundle(path, keyring)
    return caught.value


def test_an_authority_that_the_system_trusts_signs_no_bundles(
    keys: KeyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_keys(tmp_path / "foreign", "Stranger", PrivateKeyAccess())
    foreign = load_keys(tmp_path / "foreign")
    make_bundle(tmp_path / "one.raucb", foreign, "1.0.0", blocks=1)
    system = tmp_path / "system"
    system.mkdir()
    for name in ("root-1.crt", "root-1.crl"):
        (system / name).with_suffix(f"{Path(name).suffix}.pem").write_bytes((foreign.folder / name).read_bytes())
    subprocess.run(["openssl", "rehash", system], check=True)
    monkeypatch.setenv("SSL_CERT_DIR", str(system))
    bundle = tmp_path / "one.raucb"
    trusted = subprocess.run(
        ["openssl", "verify", "-purpose", "any", "-crl_check", foreign.folder / "signer-1.crt"], capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert trusted.returncode == 0, f"the system trusts it: {trusted.stderr}"
    assert refusal_of(bundle, keys).code == "bad-signature"
    (tmp_path / "foreign.pem").write_bytes(foreign.keyring())
    assert check_bundle(bundle, tmp_path / "foreign.pem").version == "1.0.0"


def test_openssl_is_only_told_whom_to_trust_in_one_place() -> None:
    """Another place could forget that OpenSSL also trusts the authorities of the system."""
    places = {
        str(path.relative_to(PROJECT))
        for folder in ("osbuild", "overlays")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and b"-CAfile" in path.read_bytes()
    }
    assert places == {"osbuild/shared/openssl_trust.py"}


@pytest.mark.parametrize(
    ("version", "compatible", "reason"),
    [
        pytest.param("1" * 129, "edge", "`version` .* at most 128 printable", id="a long version"),
        pytest.param("1.0\x1b[2J", "edge", "`version` .*: `1.0·", id="ESC in the version"),
        pytest.param("1.0\u202e", "edge", "`version`", id="another direction in the version"),
        pytest.param("1.0\x9b2J", "edge", "`version`", id="a C1 control character in the version"),
        pytest.param("1.0\0", "edge", "`version`", id="NUL in the version"),
        pytest.param("1.0\\n", "edge", "`version`", id="an escape of GLib in the version"),
        pytest.param("1.0", "e" * 257, "`compatible` .* at most 256", id="a long compatible"),
        pytest.param("1.0", "edge\u202e", "`compatible`", id="another direction in compatible"),
        pytest.param("1.0\n[update]\nversion=2.0", "edge", "can't be read", id="a second section"),
        pytest.param("1.0\nversion=2.0", "edge", "can't be read", id="a second version"),
        pytest.param("1.0\n[DEFAULT]\nx=y", "edge", "section", id="a section for all"),
        pytest.param("1.0\n" + "\x1b garbage\n" * 1000, "edge", "can't be read", id="lines of no key"),
        pytest.param("", "edge\nVersion=2.0", "no `version`", id="another name of the version"),
    ],
)  # fmt: skip
def test_a_manifest_has_one_meaning_and_printable_values(
    keys: KeyFolder, tmp_path: Path, version: str, compatible: str, reason: str
) -> None:
    make_bundle(tmp_path / "one.raucb", keys, version, blocks=1, compatible=compatible)
    refusal = refusal_of(tmp_path / "one.raucb", keys)
    assert refusal.status == 422 and refusal.code in ("bad-manifest", "incomplete-bundle")
    assert re.search(reason, refusal.message), refusal.message
    assert refusal.message.isprintable() and len(refusal.message) < 300


def test_the_longest_values_are_accepted(keys: KeyFolder, tmp_path: Path) -> None:
    make_bundle(tmp_path / "one.raucb", keys, "1" * 128, blocks=1, compatible="ö" * 256)
    (tmp_path / "keyring.pem").write_bytes(keys.keyring())
    checked = check_bundle(tmp_path / "one.raucb", tmp_path / "keyring.pem")
    assert (checked.version, checked.compatible) == ("1" * 128, "ö" * 256)
