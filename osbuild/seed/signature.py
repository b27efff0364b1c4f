"""Signed seeds: a detached signature (CMS, RFC 5652) of SHA256SUMS by the key that signs bundles.

Nodes whose profile has `seed.media: signed` accept only signed seeds from a medium.
"""

from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from osbuild.keys import private_key
from osbuild.keys.authority import check_pair
from osbuild.keys.key_folder import KeyFolder, check_signer
from osbuild.keys.pkcs11_token import TokenKey
from osbuild.keys.private_key import Key
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.seed.render import SUMS
from osbuild.shared.seed.files import SIGNATURE, SIGNED_HEADER


def load_signer(
    keys: KeyFolder, tools: Callable[[], ToolsTree], *, secret: bytes | None = None, pin: bytes | None = None
) -> tuple[x509.Certificate, Key]:
    """Return certificate and key of the current signer, after checks like those for a bundle. Raises `Error`.

    `secret` is the passphrase of the key's file, `pin` the PIN of its token, which programs in `tools` access.
    """
    signer = keys.find_signer()
    certificate = check_signer(keys, signer)
    if signer.token:
        return certificate, check_pair(keys, signer.name, TokenKey(tools(), signer.token, pin))
    hint = f"restore it, or create another signer with `edge-osbuild keys rotate {keys.folder}`"
    key = private_key.load_key(keys.folder / f"{signer.name}.key", secret, option="--passphrase", hint=hint)
    return certificate, check_pair(keys, signer.name, key)


def sign_seed(files: Mapping[str, bytes], certificate: x509.Certificate, key: Key) -> dict[str, bytes]:
    """Return `files` of a seed with the signature. SHA256SUMS remains the last file."""
    sums = SIGNED_HEADER + files[SUMS]
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(sums)
    signed = builder.add_signer(certificate, key, hashes.SHA256()).sign(serialization.Encoding.DER, options)
    other_files = {name: data for name, data in files.items() if name != SUMS}
    return {**other_files, SIGNATURE: signed, SUMS: sums}
