"""Signed seeds: a detached signature (CMS, RFC 5652) of SHA256SUMS by the key that signs bundles.

Nodes whose profile has `seed.media: signed` accept only signed seeds from a medium.
"""

from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from osbuild.keys.private_key import Key
from osbuild.seed.render import SUMS
from osbuild.shared.seed.files import SIGNATURE, SIGNED_HEADER


def sign_seed(files: Mapping[str, bytes], certificate: x509.Certificate, key: Key) -> dict[str, bytes]:
    """Return `files` of a seed with the signature. SHA256SUMS remains the last file."""
    sums = SIGNED_HEADER + files[SUMS]
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(sums)
    signed = builder.add_signer(certificate, key, hashes.SHA256()).sign(serialization.Encoding.DER, options)
    other_files = {name: data for name, data in files.items() if name != SUMS}
    return {**other_files, SIGNATURE: signed, SUMS: sums}
