"""Signs bundles: checks the signer, and passes its private key or PIN to RAUC without exposing it."""

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

# Secrets are passed on standard input. Every user could read them on a command line, which also has the sandbox's
# environment.
WITH_PIN = 'IFS= read -r RAUC_PKCS11_PIN; export RAUC_PKCS11_PIN; exec "$@"'


@dataclass(frozen=True)
class Signing:
    """A checked signer. `secret` is the private key as PEM, or the PIN of the signer's token."""

    keys: KeyFolder
    signer: SignerEntry
    certificate: x509.Certificate
    secret: str

    def run_rauc(self, tools: ToolsTree, command: Sequence[Argument], folder: Path, env: dict[str, str]) -> None:
        """Run a `rauc` command with `--cert` and `--key` of the signer added. Raises `CommandError`.

        The command can access `folder`, and the certificate is written to it.
        """
        path = folder / "signer.crt"
        path.write_bytes(to_pem(self.certificate))
        arguments: list[Argument] = [*command, "--cert", path]
        if self.signer.token is None:
            tools.run_command([*arguments, "--key", "/dev/stdin"], [folder], env=env, input=self.secret)
            return
        token_environment, paths = token_access(tools)
        arguments = ["sh", "-c", WITH_PIN, "sh", *arguments, "--key", self.signer.token]
        tools.run_command(arguments, [folder, *paths], env={**env, **token_environment}, input=self.secret + "\n")


def prepare_signing(
    keys: KeyFolder, tools: ToolsTree, *, secret: bytes | None = None, pin: bytes | None = None
) -> Signing:
    """Return the signer of `keys` after checking that it is valid and its private key belongs to it. Raises `Error`.

    `secret` is the passphrase of its key file, `pin` the PIN of its token.
    """
    signer = keys.find_signer()
    certificate = check_signer(keys, signer)
    if signer.token:
        check_pair(keys, signer.name, TokenKey(tools, signer.token, pin))
        return Signing(keys, signer, certificate, (pin or b"").decode())
    hint = f"restore it, or create another signer with `edge-osbuild keys rotate {keys.folder}`"
    key = private_key.load_key(keys.folder / f"{signer.name}.key", secret, option="--passphrase", hint=hint)
    check_pair(keys, signer.name, key)
    return Signing(keys, signer, certificate, private_key.key_to_pem(key).decode())


def trust_arguments(folder: Path, keyring: bytes) -> list[Argument]:
    """Return RAUC's arguments for checking a signature like a device. Writes keyring and configuration to `folder`."""
    ring, conf = folder / "keyring.pem", folder / "system.conf"
    ring.write_bytes(keyring)
    # RAUC requires the other keys of `[system]` too, but only the formats matter here.
    sections = {
        "system": {"compatible": "any", "bootloader": "noop", **FORMATS},
        "keyring": {**KEYRING, "path": str(ring)},
    }
    conf.write_text(render_key_file(sections))
    return [f"--conf={conf}"]
