"""Bundles that no device may install, each wrong in one way, made from a good one."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from osbuild.bundle import content, pack
from osbuild.bundle.signing import Signing
from osbuild.host.output import publish_files
from osbuild.host.run import Argument
from osbuild.image import update_trust
from osbuild.keys import authority, private_key
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.certificate import CertificateRequest, current_time, make_signer
from osbuild.keys.key_folder import SignerEntry, load_keys
from osbuild.sandbox.bundle_tools import bundle_tools
from support.versions import Version, Versions, changed

BLOCK = 4096
SIZE = 8  # bytes at the end of a bundle that say how long its signature is (RAUC's manual, "Bundle Formats")


@dataclass(frozen=True)
class Bad:
    """One kind: what makes it, and what the device must say of it (re). `touched`: a slot may have been written to."""

    make: Callable[[Versions, Version, Path], object]
    reason: str
    touched: bool = False


def payload(bundle: Path) -> bytes:
    """A bundle without its signature."""
    data = bundle.read_bytes()
    return data[: -SIZE - int.from_bytes(data[-SIZE:], "big")]


def unsigned(versions: Versions, version: Version, output: Path) -> None:
    output.write_bytes(payload(version.bundle))


def truncated(versions: Versions, version: Version, output: Path) -> None:
    data = version.bundle.read_bytes()
    output.write_bytes(data[: len(data) // 2])


def flipped(versions: Versions, version: Version, output: Path) -> None:
    """One bit of what every installation reads once the slot is touched. Of a root's block it may have no need."""
    data = bytearray(version.bundle.read_bytes())
    with versions.cache.scratch("bundles") as inside:
        content.write_content(changed(version, {}), inside)
        hashes = (inside / "boot.hashes").read_bytes()
    place = data.find(hashes[:64])  # nothing can compress it
    assert place > 0
    data[place + 32] ^= 0x10
    output.write_bytes(data)


def flipped_tree(versions: Versions, version: Version, output: Path) -> None:
    """The same, of the root's hash tree: in a block that version N has not."""
    data = bytearray(version.bundle.read_bytes())
    old, new = ((each.build / "root.verity").read_bytes() for each in (versions.named("n", version.flavour), version))
    known = {old[place : place + BLOCK] for place in range(0, len(old), BLOCK)}
    blocks = (new[place : place + BLOCK] for place in range(BLOCK, len(new), BLOCK))
    block = next(each for each in blocks if each not in known and any(each[-32:]))  # a full one, as it is in the bundle
    place = data.find(block[:64])
    assert place > 0
    data[place + 1000] ^= 0x10
    output.write_bytes(data)


def nothing(versions: Versions, version: Version, output: Path) -> None:
    output.write_bytes(b"this is no bundle\n" * 4096)


def strange(versions: Versions, version: Version, output: Path) -> None:
    versions.sign(version, output, versions.strange_keys)


def revoked(versions: Versions, version: Version, output: Path) -> None:
    versions.sign(version, output, load_keys(versions.lost_keys))


def expired(versions: Versions, version: Version, output: Path) -> None:
    """Signed now, with a certificate that ran out last year. The tool that makes bundles would refuse that."""
    keys = versions.keys
    root = keys.find_signer().root
    key = private_key.generate_key()
    public = key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    root_key = authority.root_key_of(keys, keys.find_root(root), PrivateKeyAccess())
    good = make_signer(keys.certificate(root), root_key, public, CertificateRequest(keys.owner, "old"))
    builder = x509.CertificateBuilder(good.issuer, good.subject, public, good.serial_number)
    builder = builder.not_valid_before(current_time() - timedelta(days=730)).not_valid_after(
        current_time() - timedelta(days=365)
    )
    for extension in good.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(root_key, hashes.SHA256())
    signed = Signing(keys, SignerEntry("old", root), certificate, private_key.key_to_pem(key).decode())
    with versions.cache.scratch("bundles") as scratch:
        inside, made = scratch / "content", scratch / "b.raucb"
        inside.mkdir()
        content.write_content(changed(version, {}), inside)
        command: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={pack.SQUASHFS}", inside, made]
        env = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)}
        signed.run_rauc(bundle_tools(versions.cache), command, scratch, env)
        publish_files(output.parent, {output.name: made})


def other(**facts: Any) -> Callable[[Versions, Version, Path], object]:
    """The same bundle with other facts, signed as it should be."""
    return lambda versions, version, output: versions.sign(version, output, **facts)


def locking_out(versions: Versions, version: Version, output: Path) -> None:
    """The image trusts roots that nobody on this device's side has; the tool that makes bundles would refuse that."""
    trust = json.loads(update_trust.trust_files("any", versions.strange_keys, boot="/efi")[update_trust.TRUST])
    versions.sign(version, output, trust=trust)


def skipping(versions: Versions, version: Version, output: Path) -> None:
    """Two minor versions of Kubernetes at once."""
    components = [
        {**part, "version": "v1.39.0"} if "distribution" in part else part
        for part in changed(version, {}).manifest.to_json()["components"]
    ]
    versions.sign(version, output, components=components)


BAD: Mapping[str, Bad] = {
    "unsigned": Bad(unsigned, "not a complete bundle|signature"),
    "wrong-key": Bad(strange, "signer is not trusted by this device"),
    "revoked": Bad(revoked, "revoked"),
    "expired": Bad(expired, "was not valid"),
    "wrong-board": Bad(other(board="rpi4"), "the bundle is for .*rpi4.*this device is .*"),
    "wrong-architecture": Bad(other(architecture="arm64"), "the bundle is for arm64.*this device is x86_64"),
    "other-roots": Bad(locking_out, "none of the roots that this device trusts"),
    "older": Bad(other(version="0.9.0"), "older than"),
    "truncated": Bad(truncated, "not a complete bundle|signature"),
    "bit-flipped": Bad(flipped, "blocks are damaged|do not match its signature", touched=True),
    "bit-flipped-tree": Bad(flipped_tree, "blocks are damaged|do not match its signature", touched=True),
    "no-bundle": Bad(nothing, "not a complete bundle|signature"),
}
CLUSTER: Mapping[str, Bad] = {
    "kubernetes-skipped": Bad(skipping, "v1.39.0"),
}


def make(name: str, versions: Versions, version: Version, folder: Path) -> Path:
    """The bad bundle of that name."""
    output = folder / f"{name}.raucb"
    {**BAD, **CLUSTER}[name].make(versions, version, output)
    return output
