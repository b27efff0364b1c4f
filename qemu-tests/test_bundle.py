"""Bundles and keys with the real RAUC on the host: what it makes, and what it refuses."""

import hashlib
import os
import subprocess
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from osbuild.bundle import content, info, pack, signing, source
from osbuild.host.cache import Cache
from osbuild.keys import authority, certificate, private_key
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.key_folder import KeyFolder
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared import files
from osbuild.shared.errors import Error
from tests.support.builds import make_build, random_blocks

CACHE = Cache()
BLOCK = 4096
ROOT = random_blocks("root", 200)


@pytest.fixture(scope="module")
def tools() -> ToolsTree:
    return bundle_tools(CACHE)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    return authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess())


def bundle(build: Path, output: Path, keys: KeyFolder, tools: ToolsTree, **secrets: bytes) -> Path:
    return pack.make_bundle(
        source.read_build(build), output, signing.prepare_signing(keys, tools, **secrets), CACHE
    ).path


def squashfs(path: Path) -> bytes:
    """Return the squashfs of a bundle, without hash tree and signature (`bytes_used` of its superblock)."""
    data = path.read_bytes()
    return data[: int.from_bytes(data[40:48], "little")]


def test_a_bundle_has_the_files_of_the_build_and_a_device_accepts_it(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder
) -> None:
    build = make_build(tmp_path / "build", version="1.2.3", root=ROOT)
    path = bundle(build, tmp_path / "f.raucb", keys, tools)
    bundle_info = info.read_bundle(path, CACHE, keys.keyring())
    assert (bundle_info.compatible, bundle_info.version, bundle_info.problem) == (
        "edge-osbuild-tiny-x86_64",
        "1.2.3",
        None,
    )
    assert bundle_info.signer == "O = Example, CN = edge-osbuild signer-1"
    assert bundle_info.meta["kernel"] == "6.12"
    trust = signing.trust_arguments(tmp_path, keys.keyring())
    tools.run_command(["rauc", *trust, "extract", path, tmp_path / "out"], [tmp_path])
    for name, image in (("root.erofs", "root.img"), ("root.verity", "verity.img")):
        assert (tmp_path / "out" / image).read_bytes() == (build / name).read_bytes()
    index = (tmp_path / "out/root.img.block-hash-index").read_bytes()
    blocks = [hashlib.sha256(ROOT[at : at + BLOCK]).digest() for at in range(0, len(ROOT), BLOCK)]
    assert index == b"".join(blocks), "what is compared is what the device compares"


def test_a_link_in_a_bundle_does_not_show_a_file_of_this_host(tmp_path: Path, tools: ToolsTree) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "content").mkdir()
    (tmp_path / "content/build.json").symlink_to(tmp_path / "secret")
    tools.run_command(["mksquashfs", tmp_path / "content", tmp_path / "f.raucb", "-quiet", "-no-progress"], [tmp_path])
    with pytest.raises(Error, match=r"the bundle contains no build\.json"):
        info.read_bundle_file(tmp_path / "f.raucb", "build.json", CACHE)


def test_a_file_in_a_bundle_that_would_fill_the_disk_is_refused(tmp_path: Path, tools: ToolsTree) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content/build.json").touch()
    os.truncate(tmp_path / "content/build.json", files.LARGEST + BLOCK)
    tools.run_command(["mksquashfs", tmp_path / "content", tmp_path / "f.raucb", "-quiet", "-no-progress"], [tmp_path])
    with pytest.raises(Error, match=r"the bundle contains no build\.json"):
        info.read_bundle_file(tmp_path / "f.raucb", "build.json", CACHE)


def test_a_manifest_cannot_forge_a_signer(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = content.render_manifest
    forged = "description=x\\n\\nCertificate Chain:\\n 0 Subject: O = Somebody else"
    monkeypatch.setattr(
        content,
        "render_manifest",
        lambda build_source: render(build_source).replace("[update]\n", f"[update]\n{forged}\n"),
    )
    path = bundle(make_build(tmp_path / "build"), tmp_path / "f.raucb", keys, tools)
    assert info.read_bundle(path, CACHE, keys.keyring()).signer == "O = Example, CN = edge-osbuild signer-1"


def test_the_same_build_and_key_give_the_same_payload_whatever_the_modes_of_the_files(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder
) -> None:
    first, second = make_build(tmp_path / "one"), make_build(tmp_path / "two")
    for path in second.iterdir():
        path.chmod(0o600)
        os.utime(path, (10**9, 10**9))
    bundles = [bundle(build, tmp_path / f"{build.name}.raucb", keys, tools) for build in (first, second)]
    assert squashfs(bundles[0]) == squashfs(bundles[1])
    assert len(squashfs(bundles[0])) > 200_000


def refused(path: Path, keyring: bytes) -> str:
    """Return why RAUC refuses a bundle with a device's settings. Fails if RAUC accepts it."""
    try:
        problem = info.read_bundle(path, CACHE, keyring).problem
    except Error as error:  # not readable at all
        problem = error.message
    assert problem is not None
    return problem


def test_a_revoked_signer_is_refused_and_its_successor_is_accepted(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder
) -> None:
    build = make_build(tmp_path / "build")
    first = bundle(build, tmp_path / "1.raucb", keys, tools)
    rotated = authority.rotate_signer(keys.folder, PrivateKeyAccess())
    second = bundle(build, tmp_path / "2.raucb", rotated, tools)
    assert info.read_bundle(first, CACHE, rotated.keyring()).problem is None
    authority.revoke_key(keys.folder, "signer-1", PrivateKeyAccess())
    assert "certificate revoked" in refused(first, rotated.keyring())
    assert info.read_bundle(second, CACHE, rotated.keyring()).problem is None, "signed before the list was made"
    with pytest.raises(Error, match="signer-1 was revoked"):
        signing.prepare_signing(replace(rotated, signer="signer-1"), tools)


def test_a_bundle_of_a_rotated_root_is_accepted_by_devices_that_trust_it(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder
) -> None:
    old_keyring, with_both_roots = keys.keyring(), authority.rotate_root(keys.folder, PrivateKeyAccess())
    rotated = authority.rotate_signer(keys.folder, PrivateKeyAccess(), below="root-2")
    path = bundle(make_build(tmp_path / "build"), tmp_path / "f.raucb", rotated, tools)
    assert "unable to get local issuer certificate" in refused(path, old_keyring)
    assert info.read_bundle(path, CACHE, with_both_roots.keyring()).problem is None
    assert (
        info.read_bundle(path, CACHE, authority.revoke_key(keys.folder, "root-1", PrivateKeyAccess()).keyring()).problem
        is None
    )


def test_an_expired_signer_is_refused_by_host_and_device(
    tmp_path: Path, tools: ToolsTree, keys: KeyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        past = certificate.current_time() - timedelta(days=9)
        patched.setattr(certificate, "current_time", lambda: past)
        old = authority.create_keys(tmp_path / "old", "Example", PrivateKeyAccess())
        old = authority.rotate_signer(old.folder, PrivateKeyAccess(), days=5)
    with pytest.raises(Error, match="signer-2 expired on"):
        signing.prepare_signing(old, tools)
    # Signed anyway, as somebody with the key could.
    key = private_key.load_key(old.folder / "signer-2.key", None, option="--passphrase", hint="")
    late = signing.Signing(old, old.find_signer(), old.certificate("signer-2"), key)
    with pytest.raises(Error, match="certificate has expired"):
        pack.make_bundle(source.read_build(make_build(tmp_path / "build")), tmp_path / "f.raucb", late, CACHE)
    assert not (tmp_path / "f.raucb").exists()


def test_damage_is_detected_and_reported(tmp_path: Path, tools: ToolsTree, keys: KeyFolder) -> None:
    path = bundle(make_build(tmp_path / "build", root=ROOT), tmp_path / "f.raucb", keys, tools)
    intact, damaged = path.read_bytes(), tmp_path / "g.raucb"
    for data in (intact[:-1], intact[: len(intact) // 2], intact + b"\0", intact[:-200] + b"x" + intact[-199:]):
        damaged.write_bytes(data)
        assert "RAUC refuses the bundle" in refused(damaged, keys.keyring())
    damaged.write_bytes(intact[:50_000] + bytes([intact[50_000] ^ 1]) + intact[50_001:])
    trust = signing.trust_arguments(tmp_path, keys.keyring())
    with pytest.raises(Error, match=r"verity|corrupt"):
        tools.run_command(["rauc", *trust, "extract", damaged, tmp_path / "out"], [tmp_path])


def test_an_encrypted_key_signs_with_its_passphrase_only(tmp_path: Path, tools: ToolsTree) -> None:
    keys = authority.create_keys(tmp_path / "keys", "Example", PrivateKeyAccess(secret=b"correct horse"))
    for secret, message in ((None, "no passphrase was given"), (b"hunter2", "the passphrase is wrong")):
        with pytest.raises(Error, match=message):
            signing.prepare_signing(keys, tools, secret=secret)
    build = make_build(tmp_path / "build")
    assert info.read_bundle(
        bundle(build, tmp_path / "f.raucb", keys, tools, secret=b"correct horse"), CACHE, keys.keyring()
    )


@pytest.fixture
def token(tmp_path: Path, tools: ToolsTree, monkeypatch: pytest.MonkeyPatch) -> Path:
    """softhsm2 with a PKCS#11 token `edge`, PIN 4711, that has the keys `root` and `signer`."""
    folder = tmp_path / "token"
    (folder / "tokens").mkdir(parents=True)
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    env = {"SOFTHSM2_CONF": str(conf)}
    hsm = ["softhsm2-util", "--token", "edge", "--pin", "4711"]
    tools.run_command(["softhsm2-util", "--init-token", "--free", "--label", "edge", "--so-pin", "0815", "--pin",
    "4711"],
              [folder], env=env)  # fmt: skip
    for number, name in enumerate(("root", "signer"), 1):
        path = folder / f"{name}.pem"
        tools.run_command(["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out",
        path],
                  [folder])  # fmt: skip
        tools.run_command([*hsm, "--import", path, "--label", name, "--id", f"0{number}"], [folder], env=env)
        path.unlink()
    monkeypatch.setenv("SOFTHSM2_CONF", str(conf))
    return folder


URI = "pkcs11:token=edge;object={}"


def test_keys_in_a_token_sign_certificates_lists_and_bundles(tmp_path: Path, tools: ToolsTree, token: Path) -> None:
    access = PrivateKeyAccess(pin=b"4711", new_token=URI.format("signer"))
    keys = authority.create_keys(tmp_path / "keys", "Example", access, root_token=URI.format("root"))
    assert not list(keys.folder.rglob("*.key")), "no private half is in a file"
    path = bundle(make_build(tmp_path / "build"), tmp_path / "f.raucb", keys, tools, pin=b"4711")
    assert info.read_bundle(path, CACHE, keys.keyring()).problem is None
    authority.revoke_key(keys.folder, "signer-1", PrivateKeyAccess(pin=b"4711"))
    assert "certificate revoked" in refused(path, keys.keyring())


def test_token_errors_are_reported_without_the_pin(
    tmp_path: Path, tools: ToolsTree, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = authority.create_keys(
        tmp_path / "keys",
        "Example",
        PrivateKeyAccess(pin=b"4711", new_token=URI.format("signer")),
        root_token=URI.format("root"),
    )
    for pin, uri in ((b"9999", None), (b"4711", URI.format("nothing"))):
        with pytest.raises(Error, match="the token does not provide the key") as caught:
            if uri:
                authority.create_keys(tmp_path / "more", "Example", PrivateKeyAccess(pin=pin), root_token=uri)
            else:
                signing.prepare_signing(keys, tools, pin=pin)
        assert pin.decode() not in str(caught.value) + str(caught.value.hint)
    monkeypatch.delenv("SOFTHSM2_CONF")
    with pytest.raises(Error, match="access to the PKCS#11 token is not configured"):
        signing.prepare_signing(keys, tools, pin=b"4711")


def test_a_token_is_reached_through_p11_kit(
    tmp_path: Path, tools: ToolsTree, token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = token / "socket"
    command = ["p11-kit", "server", "--foreground", "--provider", "/usr/lib/softhsm/libsofthsm2.so", "-n", str(socket)]
    wrapped = tools.wrap_command(
        [*command, "pkcs11:token=edge"], [token], env={"SOFTHSM2_CONF": str(token / "softhsm2.conf")}
    )
    with subprocess.Popen(wrapped, stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while not socket.is_socket():
                assert server.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
            monkeypatch.delenv("SOFTHSM2_CONF")
            monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", f"unix:path={socket}")
            keys = authority.create_keys(
                tmp_path / "keys", "Example", PrivateKeyAccess(pin=b"4711", new_token=URI.format("signer"))
            )
            path = bundle(make_build(tmp_path / "build"), tmp_path / "f.raucb", keys, tools, pin=b"4711")
            assert info.read_bundle(path, CACHE, keys.keyring()).problem is None
        finally:
            server.terminate()
    with pytest.raises(Error, match=r"does not name a socket|does not provide the key"):
        socket.unlink(missing_ok=True)
        signing.prepare_signing(keys, tools, pin=b"4711")
