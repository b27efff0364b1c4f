"""`edge-osbuild serve unit` and `image`: the update server as a service of systemd, and as a container image."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.options import as_object
from osbuild.host import log
from osbuild.host.cache import Cache
from osbuild.host.output import write_output
from osbuild.keys.development import existing_keys
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.sizes import format_bytes

FOLDER = Path("/etc/systemd/system")
KEYRING = Path("/etc/edge-osbuild/keyring.pem")
PUBLIC = 0o644


@dataclass(frozen=True, kw_only=True)
class UnitOptions:
    """The options of `edge-osbuild serve unit`."""

    listen: str
    names: tuple[str, ...]
    keys: Path | None
    user: str | None
    install: bool


@click.command(short_help="print or install a systemd unit of the update server")
@click.option("--listen", default="0.0.0.0:8443", show_default=True, metavar="HOST:PORT",
              help="Address and port to listen on.")  # fmt: skip
@click.option("--name", "names", multiple=True, metavar="NAME",
              help="Name or address of the server in its certificate. May be repeated.")  # fmt: skip
@click.option("--keys", type=LOCATION, metavar="FOLDER",
              help="Keys whose bundles are accepted, for --install. Default: the development keys.")  # fmt: skip
@click.option("--user", metavar="ACCOUNT",
              help="Existing account of the service. Default: one that exists while it runs.")  # fmt: skip
@click.option("--install", is_flag=True, help=f"Write the unit to {FOLDER}, and the keyring to {KEYRING}, as root.")
@as_object(UnitOptions)
def unit(options: UnitOptions) -> None:
    """Print a systemd unit that runs the update server without privileges.

    The service gets only the keyring, never a private key that signs bundles.
    """
    from osbuild.cli.serve import check_names, split_address
    from osbuild.fleet.deployment.unit import UNIT, UnitSettings, render_unit

    host, port = split_address(options.listen)
    check_names(options.names)
    settings = UnitSettings(
        program=find_program(), host=host, port=port, names=options.names, keyring=KEYRING, user=options.user
    )
    text = render_unit(settings)
    if not options.install:
        click.echo(text, nl=False)
        return
    keyring = existing_keys(options.keys).keyring()
    try:
        KEYRING.parent.mkdir(parents=True, exist_ok=True)
        write_output(KEYRING, keyring, mode=PUBLIC)
        write_output(FOLDER / UNIT, text.encode(), mode=PUBLIC)
        subprocess.run(["systemctl", "daemon-reload"], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        hint = "run the command as root, on a machine with systemd"
        raise Error(f"the service can't be installed: {error}", hint=hint) from error
    log.note(f"start the service with: systemctl enable --now {UNIT}")


@click.command(short_help="make a container image of the update server")
@click.option("-o", "--output", type=LOCATION, default="edge-osbuild-serve.tar", show_default=True, metavar="F.tar",
              help="The OCI archive.")  # fmt: skip
@click.option("--keys", type=LOCATION, metavar="FOLDER",
              help="Keys whose bundles are accepted. Default: the development keys.")  # fmt: skip
def image(output: Path, keys: Path | None) -> None:
    """Make an OCI archive that runs the update server as a user without rights.

    Its root may be read-only; its data is in the volume /data. It contains the keyring, and no private key.
    """
    from osbuild.fleet.deployment.image import make_server_image

    make_server_image(output.absolute(), existing_keys(keys).keyring(), Cache())
    log.note(f"{output}: {format_bytes(output.stat().st_size)}")


def find_program() -> Path:
    """Return the path of this program. Raises `Error`."""
    name = shutil.which(sys.argv[0]) or shutil.which("edge-osbuild")
    beside = Path(sys.executable).with_name("edge-osbuild")
    if beside.exists():
        return beside
    if name is None:
        raise Error("the program edge-osbuild is not installed", hint="install it with pip")
    return Path(name).absolute()


def read_keyring(path: Path, keys: Path | None) -> bytes:
    """Return the certificates whose bundles are accepted, as PEM. Raises `Error`; `UsageError` with `keys`."""
    if keys is not None:
        raise UsageError("--keys and --keyring exclude each other", hint="leave out one of them")
    hint = "name a file such as keyring.pem of the server's data folder"
    from cryptography import x509

    try:
        content = path.read_bytes()
        x509.load_pem_x509_certificates(content)
        return content
    except ValueError as error:
        raise Error("the keyring has no certificate, or one that is damaged", where=str(path), hint=hint) from error
    except OSError as error:
        raise Error(f"the keyring can't be read: {error.strerror}", where=str(path), hint=hint) from error
