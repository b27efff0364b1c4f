"""Keys: what is made, what devices would accept, what is refused. Chains are checked by OpenSSL, as RAUC does."""

import base64
import json
import os
import subprocess
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from osbuild import cli
from osbuild.host.run import run_command
from osbuild.keys import authority, development, private_key
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.certificate import is_development, list_number, make_root
from osbuild.keys.key_access import check_pair
from osbuild.keys.key_folder import KeyFolder, check_signer, load_keys
from osbuild.keys.key_report import report_keys
from osbuild.shared.errors import Error

SECRET = PrivateKeyAccess(root_secret=b"correct horse", secret=b"battery staple")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())


def accepted(keys: KeyFolder, signer: str, keyring: bytes | None = None) -> bool:
    """Whether OpenSSL takes a signer's certificate with RAUC's settings: purpose code signing, lists for all."""
    ring = keys.folder / "keyring.pem"
    ring.write_bytes(keyring or keys.keyring())
    command = ["openssl", "verify", "-x509_strict", "-purpose", "codesign" if _knows_codesign() else "any"]
    command += ["-crl_check_all", "-CAfile", str(ring), "-CRLfile", str(ring), str(keys.folder / f"{signer}.crt")]
    return subprocess.run(command, capture_output=True).returncode == 0


def _knows_codesign() -> bool:
    version = run_command(["openssl", "version"]).split()[1].split(".")
    return [int(version[0]), int(version[1])] >= [3, 2]


def modes(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def test_private_halves_are_for_the_owner_only_and_nothing_else_is_left(keys: KeyFolder) -> None:
    assert keys.folder.stat().st_mode & 0o777 == 0o700
    assert modes(keys.folder) == {
        ".lock": 0o600, "keys.json": 0o644, "root": 0o700, "root/root-1.key": 0o600, "root-1.crl": 0o644,
        "root-1.crt": 0o644, "signer-1.crt": 0o644, "signer-1.key": 0o600,
    }  # fmt: skip


def test_certificates_have_the_purposes_that_rauc_checks(keys: KeyFolder) -> None:
    root, signer = keys.certificate("root-1"), keys.certificate("signer-1")
    signer.verify_directly_issued_by(root)
    usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    assert [each.dotted_string for each in usage.value] == ["1.3.6.1.5.5.7.3.3"]
    assert not signer.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    assert signer.not_valid_after_utc - signer.not_valid_before_utc == timedelta(days=365)
    assert accepted(keys, "signer-1")


def test_a_signer_is_made_and_revoked_and_only_that_one_is_refused(keys: KeyFolder) -> None:
    before = keys.keyring()
    again = authority.rotate_signer(keys.folder, PrivateKeyAccess(), days=10)
    assert again.signer == "signer-2"
    assert again.keyring() == before, "the keyring is of roots: a new signer needs no new image"
    authority.revoke_key(keys.folder, "signer-1", PrivateKeyAccess(), reason="compromised")
    assert not accepted(again, "signer-1")
    assert accepted(again, "signer-2")
    assert accepted(again, "signer-1", before)
    assert list_number(again.revocations("root-1")) == 2
    assert again.revoked()["signer-1"].reason == "compromised"
    with pytest.raises(Error, match=r"signer-1 was revoked on .* \(compromised\)"):
        check_signer(again, again.find_signer("signer-1"))
    with pytest.raises(Error, match="was revoked before"):
        authority.revoke_key(keys.folder, "signer-1", PrivateKeyAccess())


def test_a_list_is_as_old_as_its_root_so_that_a_bundle_signed_before_it_still_installs(keys: KeyFolder) -> None:
    authority.rotate_signer(keys.folder, PrivateKeyAccess())
    authority.revoke_key(keys.folder, "signer-1", PrivateKeyAccess())
    root, crl = keys.certificate("root-1"), keys.revocations("root-1")
    assert (crl.last_update_utc, crl.next_update_utc) == (root.not_valid_before_utc, root.not_valid_after_utc)


def test_a_root_is_rotated_in_steps_and_each_keyring_trusts_what_it_must(keys: KeyFolder) -> None:
    folder, first = keys.folder, keys.keyring()
    with pytest.raises(Error, match="root-1 issued the current signer signer-1"):
        authority.revoke_key(folder, "root-1", PrivateKeyAccess())
    both = authority.rotate_root(folder, PrivateKeyAccess())
    assert both.signer == "signer-1" and accepted(both, "signer-1")
    moved = authority.rotate_signer(folder, PrivateKeyAccess(), below="root-2")
    assert moved.find_signer().root == "root-2"
    assert accepted(moved, "signer-2") and accepted(moved, "signer-1")
    assert not accepted(moved, "signer-2", first), "a device that never got the new root"
    last = authority.revoke_key(folder, "root-1", PrivateKeyAccess())
    assert accepted(last, "signer-2") and not accepted(last, "signer-1")
    assert [root["dropped"] for root in json.loads((folder / "keys.json").read_text())["roots"]] == [True, False]
    assert load_keys(folder) == last, "the key has the name that earlier versions gave it"
    assert authority.rotate_signer(folder, PrivateKeyAccess()).find_signer().root == "root-2"
    with pytest.raises(Error, match="root-1 was removed"):
        authority.rotate_signer(folder, PrivateKeyAccess(), below="root-1")


def test_the_root_can_be_elsewhere_and_is_only_missed_where_it_is_needed(keys: KeyFolder, tmp_path: Path) -> None:
    (keys.folder / "root").rename(tmp_path / "safe")
    check_signer(keys, keys.find_signer())
    key = private_key.load_key(keys.folder / "signer-1.key", None, option="--passphrase", hint="")
    assert check_pair(keys, "signer-1", key)
    with pytest.raises(Error, match="the private key does not exist") as caught:
        authority.rotate_signer(keys.folder, PrivateKeyAccess())
    assert "--root-keys" in str(caught.value.hint)
    assert authority.rotate_signer(keys.folder, PrivateKeyAccess(root_folder=tmp_path / "safe")).signer == "signer-2"


def test_a_key_of_another_folder_is_noticed(keys: KeyFolder, tmp_path: Path) -> None:
    other = authority.create_keys(tmp_path / "other", "Example", PrivateKeyAccess())
    with pytest.raises(Error, match="the private key of root-1 does not belong to its certificate"):
        authority.rotate_signer(keys.folder, PrivateKeyAccess(root_folder=other.folder / "root"))


def test_passphrases_are_needed_checked_and_never_printed(tmp_path: Path) -> None:
    keys = authority.create_keys(tmp_path / "keys", "Example", SECRET)
    for access, message in (
        (PrivateKeyAccess(), "is encrypted, and no passphrase was given"),
        (PrivateKeyAccess(root_secret=b"hunter2"), "the passphrase is wrong"),
    ):
        with pytest.raises(Error, match=message) as caught:
            authority.rotate_signer(keys.folder, access)
        assert "--root-passphrase" in str(caught.value.hint)
        assert "hunter2" not in str(caught.value) + str(caught.value.__cause__)
    assert authority.rotate_signer(keys.folder, SECRET).signer == "signer-2"
    assert b"ENCRYPTED" in (keys.folder / "signer-1.key").read_bytes()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "root/root-1.key").write_text("x"), "this is not a private key"),
        (lambda folder: (folder / "root/root-1.key").chmod(0o644), "other users may use this private key: .* 0644"),
        (lambda folder: (folder / "root-1.crt").write_text("x"), "this is not the certificate of root-1"),
        (lambda folder: (folder / "root-1.crt").unlink(), "the certificate does not exist"),
        (lambda folder: (folder / "keys.json").write_text("{}"), "is not a list of keys"),
        (lambda folder: (folder / "keys.json").unlink(), "the list of keys does not exist"),
    ],
)
def test_damage_is_reported_in_one_sentence(keys: KeyFolder, damage: object, message: str) -> None:
    assert callable(damage)
    damage(keys.folder)
    with pytest.raises(Error, match=message) as caught:
        authority.rotate_signer(keys.folder, PrivateKeyAccess())
    assert caught.value.hint


def damage_bytes(path: Path, offset: int) -> None:
    """Change one byte of what a PEM file encodes. An offset from the end is in the signature."""
    first, *lines, last = path.read_text().splitlines()
    data = bytearray(base64.b64decode("".join(lines)))
    data[offset] ^= 1
    path.write_text(f"{first}\n{base64.encodebytes(data).decode()}{last}\n")


@pytest.mark.parametrize("name", ["root-1.crt", "signer-1.crt", "root-1.crl"])
@pytest.mark.parametrize("damage", [-1, 40, "truncated", "other"])
def test_damage_within_pem_is_an_error_that_names_the_file(keys: KeyFolder, name: str, damage: int | str) -> None:
    path = keys.folder / name
    if isinstance(damage, int):
        damage_bytes(path, damage)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-60])
    else:
        path.write_bytes((keys.folder / "signer-1.key").read_bytes())
    with pytest.raises(Error) as caught:
        report_keys(load_keys(keys.folder))
    assert (caught.value.where, caught.value.hint) == (str(path), "restore it from your backup")
    assert name.partition(".")[0] in caught.value.message


def test_a_certificate_of_another_name_is_an_error_that_names_its_file(keys: KeyFolder) -> None:
    authority.rotate_root(keys.folder, PrivateKeyAccess())
    (keys.folder / "root-1.crt").write_bytes((keys.folder / "root-2.crt").read_bytes())
    with pytest.raises(Error, match="this is not the certificate of root-1") as caught:
        check_signer(keys, keys.find_signer())
    assert caught.value.where == str(keys.folder / "root-1.crt")


def test_private_keys_that_others_may_read_are_named(keys: KeyFolder) -> None:
    assert not [warning for warning in report_keys(keys).warnings if "other users" in warning]
    for name in ("signer-1.key", "root/root-1.key"):
        (keys.folder / name).chmod(0o666)
    warnings = [warning for warning in report_keys(keys).warnings if "other users" in warning]
    assert len(warnings) == 2
    assert all("0666" in warning and "chmod 600" in warning and ".key" in warning for warning in warnings)


def test_a_signer_that_is_not_yet_valid_does_not_sign(keys: KeyFolder) -> None:
    before = keys.certificate("signer-1").not_valid_before_utc - timedelta(days=1)
    report = report_keys(keys, at=before)
    assert {line.name: line.state for line in report.lines} == {"root-1": "not yet valid", "signer-1": "not yet valid"}
    assert any("signer-1 is not valid before" in warning and "clock" in warning for warning in report.warnings)


@pytest.mark.parametrize("algorithm", ["rsa:2048", "ed25519", "ec -pkeyopt ec_paramgen_curve:secp521r1"])
def test_a_certificate_that_cannot_sign_bundles_is_refused(keys: KeyFolder, algorithm: str, tmp_path: Path) -> None:
    extensions = tmp_path / "extensions"
    extensions.write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=codeSigning\n"
    )
    request, key, path = tmp_path / "request", tmp_path / "key", keys.folder / "signer-1.crt"
    subject = keys.certificate("signer-1").subject
    name = "".join(f"/{attribute.rfc4514_attribute_name}={attribute.value!s}" for attribute in subject)
    run_command(["openssl", "req", "-new", "-newkey", *algorithm.split(), "-nodes", "-keyout", key, "-out", request,
                 "-subj", name])  # fmt: skip
    root = ["-CA", f"{keys.folder}/root-1.crt", "-CAkey", f"{keys.folder}/root/root-1.key"]
    run_command(["openssl", "x509", "-req", "-days", "9", *root, "-in", request, "-extfile", extensions, "-out", path])
    with pytest.raises(Error, match="P-256 or P-384") as caught:
        report_keys(keys)
    assert caught.value.where == str(path)


def test_the_certificate_of_the_root_is_not_that_of_a_signer(keys: KeyFolder) -> None:
    path = keys.folder / "signer-1.crt"
    path.write_bytes((keys.folder / "root-1.crt").read_bytes() + path.read_bytes())
    with pytest.raises(Error, match="not the certificate of signer-1") as caught:
        report_keys(keys)
    assert caught.value.where == str(path)


def test_a_build_reports_damaged_keys_before_it_begins(keys: KeyFolder, tmp_path: Path) -> None:
    (keys.folder / "root-1.crt").write_text("x")
    with pytest.raises(Error, match="this is not the certificate of root-1"):
        cli.cli.main(
            ["build", "minimal", "-o", str(tmp_path / "build"), "--keys", str(keys.folder)], standalone_mode=False
        )
    assert not (tmp_path / "build").exists()


def test_a_list_by_another_root_is_refused(keys: KeyFolder, tmp_path: Path) -> None:
    other = authority.create_keys(tmp_path / "other", "Example", PrivateKeyAccess())
    (keys.folder / "root-1.crl").write_bytes((other.folder / "root-1.crl").read_bytes())
    with pytest.raises(Error, match="not a revocation list of root-1"):
        keys.keyring()


def test_an_expired_signer_does_not_sign_and_its_expiry_is_announced(keys: KeyFolder) -> None:
    short = authority.rotate_signer(keys.folder, PrivateKeyAccess(), days=20)
    assert any("signer-2 expires on" in warning for warning in report_keys(short).warnings)
    later = datetime.now(UTC) + timedelta(days=21)
    states = {line.name: line.state for line in report_keys(short, at=later).lines}
    assert states == {"root-1": "trusted", "signer-1": "valid", "signer-2": "expired"}
    with pytest.raises(Error, match="signer-2 expired on"):
        check_signer(short, short.find_signer(), later)


def test_a_signer_never_outlives_its_root_and_a_dead_root_signs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "make_root", lambda key, request: make_root(key, replace(request, days=30)))
    keys = authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    assert keys.certificate("signer-1").not_valid_after_utc <= keys.certificate("root-1").not_valid_after_utc
    later = datetime.now(UTC) + timedelta(days=31)
    monkeypatch.setattr(authority, "current_time", lambda: later)
    with pytest.raises(Error, match="root-1 has expired"):
        authority.rotate_signer(keys.folder, PrivateKeyAccess())


def test_development_keys_are_made_once_are_marked_and_renew_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_OSBUILD_KEYS", raising=False)
    with pytest.raises(Error, match="the list of keys does not exist"):
        development.existing_keys()
    assert not (tmp_path / "edge-osbuild").exists(), "to look at keys makes none"
    keys = development.signing_keys()
    assert keys.folder == tmp_path / "edge-osbuild/keys"
    assert keys.development and all(is_development(keys.certificate(name)) for name in ("root-1", "signer-1"))
    assert development.signing_keys() == keys
    later = datetime.now(UTC) + timedelta(days=340)
    monkeypatch.setattr(development, "current_time", lambda: later)
    assert development.signing_keys().signer == "signer-2"
    assert any("not for devices in the field" in warning for warning in report_keys(keys).warnings)


def test_two_first_builds_at_the_same_time_get_the_same_development_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("EDGE_OSBUILD_KEYS", raising=False)
    start, results = threading.Barrier(4), []

    def create() -> None:
        start.wait()
        results.append(development.signing_keys())

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(keys == results[0] for keys in results)


def test_no_test_can_change_the_development_keys_of_whoever_runs_it() -> None:
    assert not development.default_folder().is_relative_to(Path.home() / ".local")
    assert "EDGE_OSBUILD_KEYS" not in os.environ


def test_production_keys_are_not_marked_and_a_missing_folder_is_never_filled_with_development_keys(
    keys: KeyFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_development(keys.certificate("root-1"))
    monkeypatch.setenv("EDGE_OSBUILD_KEYS", str(tmp_path / "nothing"))
    for folder in (None, tmp_path / "nothing"):
        with pytest.raises(Error, match="the list of keys does not exist"):
            development.signing_keys(folder)
    assert not (tmp_path / "nothing").exists()


def test_development_keys_stay_marked_whatever_the_list_of_keys_says(tmp_path: Path) -> None:
    keys = authority.create_keys(tmp_path, "Example", PrivateKeyAccess(), development=True)
    state = tmp_path / "keys.json"
    state.write_text(state.read_text().replace('"development": true', '"development": false'))
    assert load_keys(tmp_path) == keys
    (tmp_path / "root-1.crt").unlink()
    assert not load_keys(tmp_path).development, "the missing certificate is reported by whoever needs it"


def test_an_interrupted_init_leaves_no_keys_and_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(authority, "make_signer", fail)
        with pytest.raises(KeyboardInterrupt):
            authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())
    with pytest.raises(Error, match="the list of keys does not exist"):
        load_keys(tmp_path / "keys")
    assert accepted(authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess()), "signer-1")
    with pytest.raises(Error, match="this folder has keys already"):
        authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())


def test_a_folder_root_with_other_files_is_not_that_of_the_roots(tmp_path: Path) -> None:
    """As /root for `keys init /`."""
    home = tmp_path / "root"
    home.mkdir()
    (home / ".profile").write_text("mine")
    with pytest.raises(Error, match="has other files"):
        authority.create_keys(tmp_path, "Example", PrivateKeyAccess())
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".profile", "root"]
    stick = PrivateKeyAccess(root_folder=home)
    assert accepted(authority.create_keys(tmp_path, "Example", stick), "signer-1")


def test_a_failure_removes_its_own_keys_and_folders_and_no_file_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()

    def fail(*_: object, **__: object) -> None:
        (stick / "download").write_text("of another program, meanwhile")
        raise Error("no")

    monkeypatch.setattr(authority, "make_signer", fail)
    for folder in (stick, None):
        with pytest.raises(Error, match="no"):
            authority.create_keys(tmp_path / "new/keys", "Example", PrivateKeyAccess(root_folder=folder))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["download", "stick"]


def edge(*arguments: str | Path) -> object:
    with pytest.raises(SystemExit) as stopped:
        cli.main([str(word) for word in arguments])
    return stopped.value.code


def test_the_command_line_makes_rotates_revokes_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ROOT_SECRET", "correct horse")
    folder, safe = tmp_path / "keys", tmp_path / "safe"
    root = ("--root-keys", safe, "--root-passphrase", "env:ROOT_SECRET")
    assert edge("keys", "init", folder, "--owner", "Example", *root) == 0
    assert edge("keys", "rotate", folder, *root, "--days", "5") == 0
    assert edge("keys", "revoke", "signer-1", folder, *root, "--reason", "compromised") == 0
    capsys.readouterr()
    assert edge("keys", "show", folder, "--keyring", tmp_path / "ring.pem") == 0
    output = capsys.readouterr()
    assert "compromised" in output.out and "key: not here" in output.out
    assert "signer-2 expires on" in output.err
    assert (tmp_path / "ring.pem").read_bytes() == load_keys(folder).keyring()
    assert edge("keys", "show", folder, "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert [(key["name"], key["state"]) for key in plain["keys"]] == [
        ("root-1", "trusted"), ("signer-1", "revoked"), ("signer-2", "signs"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("keys", "show", "{}/no"), 1, "the list of keys does not exist"),
        (("keys", "init", "{}/new", "--owner", " "), 2, "the owner must have"),
        (("keys", "init", "{}/new", "--owner", "x", "--passphrase", "hunter2"), 1, "not a reference"),
        (("keys", "init", "{}/new", "--owner", "x", "--passphrase", "env:LONG"), 1, "of 2000 bytes is too long"),
        (("keys", "rotate", "{}", "--root", "--days", "3"), 2, "only for signers"),
        (("keys", "rotate", "{}", "--token", "x"), 2, "not a PKCS#11 URI"),
        (("keys", "rotate", "{}", "--token", "pkcs11:token=a?pin-value=1234"), 1, "contains a PIN"),
        (("keys", "revoke", "signer-9", "{}"), 1, "this key folder has no `signer-9`"),
        (("keys", "init", "{}", "--owner", "x"), 1, "this folder has keys already"),
    ],
)
def test_bad_input_is_reported(
    keys: KeyFolder, arguments: tuple[str, ...], status: int, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("LONG", "x" * 2000)
    assert edge(*(word.format(keys.folder) for word in arguments)) == status
    messages = capsys.readouterr().err
    assert message in messages and "hint:" in messages
    assert "hunter2" not in messages and "1234" not in messages
