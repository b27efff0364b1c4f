"""Bundles that a device must refuse, each with one defect, made from a good bundle."""

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
from support.versions import Version, Versions, source_with_metadata

BLOCK = 4096
SIGNATURE_SIZE = 8  # bytes of the signature's size at the end of a bundle (RAUC's manual, "Bundle Formats")


@dataclass(frozen=True)
class BadBundle:
    """One kind: the function that makes it, and the device's reason (re). `touched`: a slot may have been written."""

    make: Callable[[Versions, Version, Path], object]
    reason: str
    touched: bool = False


def unsigned_payload(bundle: Path) -> bytes:
    """Return a bundle without its signature."""
    data = bundle.read_bytes()
    return data[: -SIGNATURE_SIZE - int.from_bytes(data[-SIGNATURE_SIZE:], "big")]


def write_unsigned(versions: Versions, version: Version, output: Path) -> None:
    output.write_bytes(unsigned_payload(version.bundle))


def write_truncated(versions: Versions, version: Version, output: Path) -> None:
    data = version.bundle.read_bytes()
    output.write_bytes(data[: len(data) // 2])


def flip_bit(versions: Versions, version: Version, output: Path) -> None:
    """Flip one bit of the index of the boot image, which every installation reads after it has touched the slot."""
    # A block of the root is no good: the device may have it already.
    data = bytearray(version.bundle.read_bytes())
    with versions.cache.scratch("bundles") as content_folder:
        content.write_content(source_with_metadata(version, {}), content_folder)
        hashes = (content_folder / "boot.hashes").read_bytes()
    offset = data.find(hashes[:64])  # hashes are stored uncompressed
    assert offset > 0
    data[offset + 32] ^= 0x10
    output.write_bytes(data)


def flip_hash_tree_bit(versions: Versions, version: Version, output: Path) -> None:
    """Flip one bit of the root's hash tree, in a block that version N does not have."""
    data = bytearray(version.bundle.read_bytes())
    old, new = (
        (source.build / "root.verity").read_bytes() for source in (versions.lookup("n", version.flavour), version)
    )
    old_blocks = {old[offset : offset + BLOCK] for offset in range(0, len(old), BLOCK)}
    blocks = (new[offset : offset + BLOCK] for offset in range(BLOCK, len(new), BLOCK))
    block = next(
        source for source in blocks if source not in old_blocks and any(source[-32:])
    )  # a full block is stored uncompressed
    offset = data.find(block[:64])
    assert offset > 0
    data[offset + 1000] ^= 0x10
    output.write_bytes(data)


def write_garbage(versions: Versions, version: Version, output: Path) -> None:
    output.write_bytes(b"this is no bundle\n" * 4096)


def sign_with_untrusted_key(versions: Versions, version: Version, output: Path) -> None:
    versions.sign(version, output, versions.strange_keys)


def sign_with_revoked_key(versions: Versions, version: Version, output: Path) -> None:
    versions.sign(version, output, load_keys(versions.lost_keys))


def sign_with_expired_certificate(versions: Versions, version: Version, output: Path) -> None:
    """Sign now, with a certificate that expired last year, which `edge-osbuild bundle` refuses."""
    keys = versions.keys
    root = keys.find_signer().root
    key = private_key.generate_key()
    public = key.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    root_key = authority.root_key_of(keys, keys.find_root(root), PrivateKeyAccess())
    valid = make_signer(keys.certificate(root), root_key, public, CertificateRequest(keys.owner, "old"))
    builder = x509.CertificateBuilder(valid.issuer, valid.subject, public, valid.serial_number)
    builder = builder.not_valid_before(current_time() - timedelta(days=730)).not_valid_after(
        current_time() - timedelta(days=365)
    )
    for extension in valid.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    certificate = builder.sign(root_key, hashes.SHA256())
    signing = Signing(keys, SignerEntry("old", root), certificate, key)
    with versions.cache.scratch("bundles") as scratch:
        content_folder, bundle = scratch / "content", scratch / "b.raucb"
        content_folder.mkdir()
        content.write_content(source_with_metadata(version, {}), content_folder)
        command: list[Argument] = ["rauc", "bundle", f"--mksquashfs-args={pack.SQUASHFS}", content_folder, bundle]
        env = {"SOURCE_DATE_EPOCH": "0", "TMPDIR": str(scratch)}
        signing.run_rauc(bundle_tools(versions.cache), command, scratch, env)
        publish_files(output.parent, {output.name: bundle})


def sign_with_metadata(**metadata: Any) -> Callable[[Versions, Version, Path], object]:
    """Return a function that makes the same bundle with other metadata and a valid signature."""
    return lambda versions, version, output: versions.sign(version, output, **metadata)


def trust_other_roots(versions: Versions, version: Version, output: Path) -> None:
    """Make an image that trusts none of this device's roots, which `edge-osbuild bundle` refuses."""
    trust = json.loads(update_trust.trust_files("any", versions.strange_keys, boot="/efi")[update_trust.TRUST])
    versions.sign(version, output, trust=trust)


def skip_kubernetes_version(versions: Versions, version: Version, output: Path) -> None:
    """Skip a minor version of Kubernetes."""
    components = [
        {**part, "version": "v1.39.0"} if "distribution" in part else part
        for part in source_with_metadata(version, {}).manifest.to_json()["components"]
    ]
    versions.sign(version, output, components=components)


BAD: Mapping[str, BadBundle] = {
    "unsigned": BadBundle(write_unsigned, "not a complete bundle|signature"),
    "wrong-key": BadBundle(sign_with_untrusted_key, "signer is not trusted by this device"),
    "revoked": BadBundle(sign_with_revoked_key, "revoked"),
    "expired": BadBundle(sign_with_expired_certificate, "was not valid"),
    "wrong-board": BadBundle(sign_with_metadata(board="rpi4"), "the bundle is for .*rpi4.*this device is .*"),
    "wrong-architecture": BadBundle(
        sign_with_metadata(architecture="arm64"), "the bundle is for arm64.*this device is x86_64"
    ),
    "other-roots": BadBundle(trust_other_roots, "none of the roots that this device trusts"),
    "older": BadBundle(sign_with_metadata(version="0.9.0"), "older than"),
    "truncated": BadBundle(write_truncated, "not a complete bundle|signature"),
    "bit-flipped": BadBundle(flip_bit, "blocks are damaged|do not match its signature", touched=True),
    "bit-flipped-tree": BadBundle(flip_hash_tree_bit, "blocks are damaged|do not match its signature", touched=True),
    "no-bundle": BadBundle(write_garbage, "not a complete bundle|signature"),
}
CLUSTER: Mapping[str, BadBundle] = {
    "kubernetes-skipped": BadBundle(skip_kubernetes_version, "v1.39.0"),
}


def make_bad_bundle(name: str, versions: Versions, version: Version, folder: Path) -> Path:
    """Make the bad bundle of that name in `folder`."""
    output = folder / f"{name}.raucb"
    {**BAD, **CLUSTER}[name].make(versions, version, output)
    return output
