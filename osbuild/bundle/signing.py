"""The signature of a bundle: which key, and how RAUC gets at it without anybody else seeing it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from osbuild.host.run import Argument
from osbuild.image.rauc_config import FORMATS, KEYRING, render_key_file
from osbuild.keys import private_key
from osbuild.keys.authority import check_pair
from osbuild.keys.certificate import to_pem
from osbuild.keys.key_folder import KeyFolder, SignerEntry, check_signer
from osbuild.keys.pkcs11_token import TokenKey, token_access
from osbuild.sandbox.tools_tree import ToolsTree

# Secrets come by standard input: on a command line, which holds the sandbox's environment too, all could see them.
WITH_PIN = 'IFS= read -r RAUC_PKCS11_PIN; export RAUC_PKCS11_PIN; exec "$@"'


@dataclass(frozen=True)
class Signing:
    """A signer that was found good, and what RAUC reads from its standard input: the key, or the PIN of its token."""

    keys: KeyFolder
    signer: SignerEntry
    certificate: x509.Certificate
    secret: str

    def run_rauc(self, tools: ToolsTree, command: Sequence[Argument], folder: Path, env: dict[str, str]) -> None:
        """Run `rauc …`, which sees `folder`, with `--cert` and `--key` of the signer added. Raises `CommandError`."""
        path = folder / "signer.crt"
        path.write_bytes(to_pem(self.certificate))
        words: list[Argument] = [*command, "--cert", path]
        if self.signer.token is None:
            tools.run_command([*words, "--key", "/dev/stdin"], [folder], env=env, input=self.secret)
            return
        more, paths = token_access(tools)
        words = ["sh", "-c", WITH_PIN, "sh", *words, "--key", self.signer.token]
        tools.run_command(words, [folder, *paths], env={**env, **more}, input=self.secret + "\n")


def prepare_signing(
    keys: KeyFolder, tools: ToolsTree, *, secret: bytes | None = None, pin: bytes | None = None
) -> Signing:
    """The signer of `keys`, checked: not revoked, not expired, its private key there and the right one.

    `secret` is the passphrase of its file, `pin` that of its token. Raises `Error`.
    """
    signer = keys.find_signer()
    certificate = check_signer(keys, signer)
    if signer.token:
        check_pair(keys, signer.name, TokenKey(tools, signer.token, pin))
        return Signing(keys, signer, certificate, (pin or b"").decode())
    hint = f"restore it, or make another signer with `edge-osbuild keys rotate {keys.folder}`"
    key = private_key.load_key(keys.folder / f"{signer.name}.key", secret, option="--passphrase", hint=hint)
    check_pair(keys, signer.name, key)
    return Signing(keys, signer, certificate, private_key.key_to_pem(key).decode())


def trust_arguments(folder: Path, keyring: bytes) -> list[Argument]:
    """RAUC's arguments to check a signature as a device does; files for it are written into `folder`."""
    ring, conf = folder / "keyring.pem", folder / "system.conf"
    ring.write_bytes(keyring)
    # Of `[system]` only the formats matter here, but RAUC wants the rest too.
    sections = {
        "system": {"compatible": "any", "bootloader": "noop", **FORMATS},
        "keyring": {**KEYRING, "path": str(ring)},
    }
    conf.write_text(render_key_file(sections))
    return [f"--conf={conf}"]
