"""Signs bundles: checks the signer, and runs RAUC with access to its private key."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from osbuild.host.run import Argument
from osbuild.image.rauc_config import FORMATS, KEYRING, render_key_file
from osbuild.keys.certificate import to_pem
from osbuild.keys.key_access import TokenAccess, open_signer, rauc_key
from osbuild.keys.key_folder import KeyFolder, SignerEntry
from osbuild.keys.private_key import Key
from osbuild.sandbox.tools_tree import ToolsTree


@dataclass(frozen=True)
class Signing:
    """A checked signer, with its private key."""

    keys: KeyFolder
    signer: SignerEntry
    certificate: x509.Certificate
    key: Key

    def run_rauc(self, tools: ToolsTree, command: Sequence[Argument], folder: Path, env: dict[str, str]) -> None:
        """Run a `rauc` command with `--cert` and `--key` of the signer added. Raises `CommandError`.

        The command can access `folder`, and the certificate is written to it.
        """
        path = folder / "signer.crt"
        path.write_bytes(to_pem(self.certificate))
        access = rauc_key(self.key, tools)
        arguments = [*access.prefix, *command, "--cert", path, "--key", access.reference]
        environment = {**env, **access.environment}
        tools.run_command(arguments, [folder, *access.paths], env=environment, input=access.input)


def prepare_signing(
    keys: KeyFolder, tools: ToolsTree, *, secret: bytes | None = None, pin: bytes | None = None
) -> Signing:
    """Return the signer of `keys` after checking that it is valid and its private key belongs to it. Raises `Error`.

    `secret` is the passphrase of its key file, `pin` the PIN of its token.
    """
    certificate, key = open_signer(keys, secret, TokenAccess(lambda: tools, pin))
    return Signing(keys, keys.find_signer(), certificate, key)


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
