"""Private keys in PKCS#11 tokens, named by a URI (RFC 7512) and used through OpenSSL in the tools tree.

The tools tree can't load a vendor's PKCS#11 library, because the library depends on other libraries of the host. So it
accesses the host's tokens through `p11-kit server` (p11-kit(8)). It has softhsm2 itself.
"""

import os
import re
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from osbuild.host.run import Argument, CommandError
from osbuild.host.scratch import temporary_folder
from osbuild.keys.private_key import CURVES
from osbuild.sandbox.tools_tree import ToolsTree
from osbuild.shared.errors import Error

SERVER, SOFTHSM = "P11_KIT_SERVER_ADDRESS", "SOFTHSM2_CONF"


def is_token(reference: str) -> bool:
    """Whether `reference` is the URI of a key in a token, not a file."""
    return reference.startswith("pkcs11:")


def check_uri(uri: str) -> str:
    """Return `uri`. Raises `Error` if it contains a PIN, because the URI is stored and printed."""
    if re.search(r"[?&;]pin-(value|source)=", uri):
        raise Error("the URI contains a PIN", where=uri.partition("pin-")[0] + "…", hint="give it with --pin instead")
    return uri


def token_access(tools: ToolsTree) -> tuple[dict[str, str], list[Path]]:
    """Return the environment and host paths with which programs in `tools` access the token.

    Raises `Error` if neither $P11_KIT_SERVER_ADDRESS nor $SOFTHSM2_CONF is set.
    """
    if address := os.environ.get(SERVER):
        socket = Path(address.partition("path=")[2])
        if not socket.is_socket():
            hint = "start it with `p11-kit server` and export what it prints"
            raise Error(f"${SERVER} does not name a socket", where=address, hint=hint)
        return {SERVER: address, **_module(tools, "p11-kit-client.so")}, [socket.parent]
    if name := os.environ.get(SOFTHSM):
        match = re.search(r"^\s*directories\.tokendir\s*=\s*(\S+)", _text(Path(name)), re.MULTILINE)
        if match is None:
            raise Error("has no directories.tokendir", where=name, hint="see softhsm2.conf(5)")
        return {SOFTHSM: name, **_module(tools, "libsofthsm2.so")}, [Path(name).parent, Path(match[1])]
    hint = f"run `p11-kit server` for the token and export what it prints ({SERVER}), or set {SOFTHSM}"
    raise Error("access to the PKCS#11 token is not configured", hint=hint)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Error(f"cannot be read: {error}", where=str(path), hint=f"check ${SOFTHSM}") from error


def _module(tools: ToolsTree, name: str) -> dict[str, str]:
    modules = sorted((tools.root / "usr/lib").glob(f"*-linux-gnu*/*/{name}"))
    inside = "/" + str(modules[0].relative_to(tools.root))
    return {"PKCS11_MODULE_PATH": inside, "RAUC_PKCS11_MODULE": inside}


class TokenKey(ec.EllipticCurvePrivateKey):
    """A private key that never leaves its token. It signs like any other key, but can't be read."""

    def __init__(self, tools: ToolsTree, uri: str, pin: bytes | None) -> None:
        self.tools, self.uri, self.pin = tools, check_uri(uri), pin
        text = self._openssl("pkey", "-inform", "engine", "-in", uri, "-pubout")
        public = serialization.load_pem_public_key(text[text.index("-----BEGIN") :].encode())
        if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name not in CURVES:
            hint = "create such a key with your token's own tool"
            raise Error("the token's key is not on the curve P-256 or P-384", where=uri, hint=hint)
        self._public = public

    def _openssl(self, command: str, *arguments: Argument, folder: Path | None = None) -> str:
        env, binds = token_access(self.tools)
        line: list[Argument] = ["openssl", command, "-engine", "pkcs11", "-passin", "stdin", *arguments]
        more = [folder] if folder else []
        try:
            return self.tools.run_command(line, [*binds, *more], env=env, input=(self.pin or b"").decode() + "\n")
        except CommandError as error:
            reasons = [line for line in error.output.splitlines() if line.strip()]
            hint = "check the URI (`p11tool --list-all` lists it) and the PIN that --pin refers to"
            raise Error(
                f"the token does not provide the key: {reasons[-1] if reasons else ''}", where=self.uri, hint=hint
            ) from None

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed) or not isinstance(algorithm, hashes.SHA256):
            raise TypeError("only signatures over SHA-256 are supported")
        with temporary_folder("sign") as folder:
            text, signature = folder / "text", folder / "signature"
            text.write_bytes(bytes(data))
            arguments = ("-sha256", "-keyform", "engine", "-sign", self.uri, "-out", signature, text)
            self._openssl("dgst", *arguments, folder=folder)
            return signature.read_bytes()

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise TypeError("this key only signs")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise TypeError("this key stays in its token")

    def private_bytes(self, *_: object, **__: object) -> bytes:
        raise TypeError("this key stays in its token")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        return self
