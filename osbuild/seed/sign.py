"""Signed seeds: a detached signature (CMS, RFC 5652) of SHA256SUMS by the key that signs bundles.

Nodes whose image says `seed.media: signed` take no other seed from a medium.
"""

from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.serialization import pkcs7

from osbuild.agent.seed.files import SIGNATURE
from osbuild.agent.seed.signature import PURPOSE
from osbuild.keys import private
from osbuild.keys.authority import check_pair
from osbuild.keys.private import Key
from osbuild.keys.store import Keys, check_usable
from osbuild.keys.token import TokenKey
from osbuild.seed.render import SUMS
from osbuild.tools import Tree


def signer(
    keys: Keys, tools: Callable[[], Tree], *, secret: bytes | None = None, pin: bytes | None = None
) -> tuple[x509.Certificate, Key]:
    """The certificate and key that sign now, checked like those for a bundle. Raises `Error`.

    `secret` is the passphrase of the key's file, `pin` that of its token,
    which is reached by programs in `tools`.
    """
    chosen = keys.the_signer()
    certificate = check_usable(keys, chosen)
    if chosen.token:
        return certificate, check_pair(keys, chosen.name, TokenKey(tools(), chosen.token, pin))
    hint = f"restore it, or make another signer with `edge-osbuild keys rotate {keys.folder}`"
    key = private.load(keys.folder / f"{chosen.name}.key", secret, option="--passphrase", hint=hint)
    return certificate, check_pair(keys, chosen.name, key)


def sign(files: Mapping[str, bytes], certificate: x509.Certificate, key: Key) -> dict[str, bytes]:
    """`files` of a seed, SHA256SUMS being the last, with the signature before it."""
    sums = PURPOSE + files[SUMS]
    options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
    builder = pkcs7.PKCS7SignatureBuilder().set_data(sums)
    signed = builder.add_signer(certificate, key, hashes.SHA256()).sign(serialization.Encoding.DER, options)
    rest = {name: data for name, data in files.items() if name != SUMS}
    return {**rest, SIGNATURE: signed, SUMS: sums}
