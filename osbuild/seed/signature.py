"""Signed seeds: a detached signature (CMS, RFC 5652) of SHA256SUMS by the key that signs bundles.

Nodes whose image says `seed.media: signed` take no other seed from a medium.
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
    """The certificate and key that sign now, checked like those for a bundle. Raises `Error`.

    `secret` is the passphrase of the key's file, `pin` that of its token,
    which is reached by programs in `tools`.
    """
    chosen = keys.find_signer()
    certificate = check_signer(keys, chosen)
    if chosen.token:
        return certificate, check_pair(keys, chosen.name, TokenKey(tools(), chosen.token, pin))
    hint = f"restore it, or make another signer with `edge-osbuild keys rotate {keys.folder}`"
    key = private_key.load_key(keys.folder / f"{chosen.name}.key", secret, option="--passphrase", hint=hint)
    return certificate, check_pair(keys, chosen.name, key)


def sign_seed(files: Mapping[str, bytes], certificate: x509.Certificate, key: Key) -> dict[str, bytes]:
    """`files` of a seed, SHA256SUMS being the last, with the signature before it."""
    sums = SIGNED_HEADER + files[SUMS]
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(sums)
    signed = builder.add_signer(certificate, key, hashes.SHA256()).sign(serialization.Encoding.DER, options)
    rest = {name: data for name, data in files.items() if name != SUMS}
    return {**rest, SIGNATURE: signed, SUMS: sums}
