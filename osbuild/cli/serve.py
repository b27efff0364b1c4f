"""`edge-osbuild serve`: the update server of a fleet."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from osbuild.cli.deployment import image, read_keyring, unit
from osbuild.cli.location import LOCATION
from osbuild.cli.options import REFERENCE, as_object, resolve_option
from osbuild.cli.serve_backup import backup_folder, restore_folder
from osbuild.config.checks.option_values import is_address
from osbuild.host import log
from osbuild.keys.development import signing_keys
from osbuild.shared.errors import Error, UsageError

if TYPE_CHECKING:
    from sqlalchemy import URL

ADMIN_DAYS = 365
HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*", re.ASCII)
HISTORY_DAYS = 3 * 365


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The options of `edge-osbuild serve`."""

    data: Path
    listen: str
    names: tuple[str, ...]
    keys: Path | None
    keyring: Path | None
    poll: int
    gateway_token: str | None
    most_downloads: int | None
    new_admin_token: bool
    log_format: str
    access_log: bool
    client_timeout: int
    database: str | None
    artifact_url: str | None
    keep_history: int


@click.group(short_help="serve updates to devices, and watch them", invoke_without_command=True)
@click.option("--data", type=LOCATION, default="build/fleet", show_default=True, metavar="FOLDER",
              help="Folder of the database, the bundles and the keys. It is created if it does not exist.")  # fmt: skip
@click.option("--listen", default="127.0.0.1:8443", show_default=True, metavar="HOST:PORT",
              help="Address and port to listen on.")  # fmt: skip
@click.option("--name", "names", multiple=True, metavar="NAME",
              help="Name or address of the server in its certificate. May be repeated.")  # fmt: skip
@click.option("--keys", type=LOCATION, metavar="FOLDER",
              help="Keys whose bundles are accepted. Default: the development keys.")  # fmt: skip
@click.option("--keyring", type=LOCATION, metavar="FILE",
              help="Certificates whose bundles are accepted (PEM), instead of --keys.")  # fmt: skip
@click.option("--poll", type=click.IntRange(min=1, max=7 * 24 * 3600), default=300, show_default=True,
              metavar="SECONDS", help="Time between two polls of an idle device.")  # fmt: skip
@click.option("--gateway-token", metavar=REFERENCE,
              help="Token of a gateway, which may speak for all devices, also unknown ones.")  # fmt: skip
@click.option("--most-downloads", type=click.IntRange(min=1), metavar="NUMBER",
              help="How many devices may download at the same time. The others wait. Default: no limit.")  # fmt: skip
@click.option("--new-admin-token", is_flag=True, help="Create another access token of an administrator, and print it.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True,
              help="How messages are printed: for people, or one JSON object per line.")  # fmt: skip
@click.option("--access-log", is_flag=True, help="Print each request, with its status and who has sent it.")
@click.option("--client-timeout", type=click.IntRange(min=2, max=3600), default=60, show_default=True,
              metavar="SECONDS", help="How long a slow client may take for a handshake, or for a body.")  # fmt: skip
@click.option("--database", metavar="postgresql://USER@HOST/DATABASE|file:PATH|env:NAME",
              help="PostgreSQL instead of SQLite, for several servers. A password only by reference.")  # fmt: skip
@click.option("--artifact-url", metavar="URL",
              help="Where another server offers the files of bundles, by SHA-256, to devices.")  # fmt: skip
@click.option("--keep-history", type=click.IntRange(min=1, max=36500), default=HISTORY_DAYS, show_default=True,
              metavar="DAYS", help="Age at which reports, ended actions and audit entries are deleted.")  # fmt: skip
@as_object(ServeOptions)
def command(options: ServeOptions) -> None:
    """Serve updates to devices over HTTPS.

    The first start creates the data folder, the server's certificate authority, and an access token of an
    administrator, which is printed once.
    """
    if (subcommand := click.get_current_context().invoked_subcommand) is not None:
        refuse_options(subcommand)
        return
    from osbuild.fleet import server

    if options.log_format == "json":
        log.use_json_lines()
    host, port = split_address(options.listen)
    check_names(options.names)
    own = options.keyring
    keyring = signing_keys(options.keys).keyring() if own is None else read_keyring(own, options.keys)
    gateway = options.gateway_token and resolve_option("--gateway-token", options.gateway_token)
    database = None if options.database is None else read_database_address(options.database)
    artifact_url = None if options.artifact_url is None else check_url(options.artifact_url)
    prepared = server.prepare_server(server.ServerOptions(
        options.data, keyring, host, port, options.names, options.poll, gateway or None, database, artifact_url,
        options.keep_history, options.access_log, options.client_timeout,
    ))  # fmt: skip
    token = server.create_admin_token(prepared.service, ADMIN_DAYS, again=options.new_admin_token)
    if token is not None:
        click.echo(f"access token of the administrator (shown only once): {token}")
    prepared.service.downloads.most = options.most_downloads
    address = f"https://{options.names[0] if options.names else host}:{prepared.port}"
    server.run_server(prepared, lambda: log.note(f"serving at {address}, with the authority {prepared.authority_file}"))


def refuse_options(subcommand: str) -> None:
    """Raise `UsageError` for an option of `serve` itself that a subcommand would ignore."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is ParameterSource.COMMANDLINE
        if given and not (parameter.name == "data" and subcommand in (backup_folder.name, restore_folder.name)):
            hint = f"see `edge-osbuild serve {subcommand} --help` for the options of that command"
            raise UsageError(f"{parameter.opts[0]} has no effect on `serve {subcommand}`", hint=hint)


def check_names(names: Sequence[str]) -> None:
    """Raise `UsageError` for a name that no server can have (RFC 1123, section 2.1)."""
    for name in names:
        if not HOST_NAME.fullmatch(name) and not is_address(name):
            hint = "write a host name such as updates.example.com, or an address, without port"
            raise UsageError(f"this is not the name of a server: {name!r}", hint=hint)


command.add_command(backup_folder)
command.add_command(restore_folder)


def read_database_address(text: str) -> "URL":
    """Return the address of a database. Raises `UsageError` if it has a password and is not a secret."""
    from osbuild.fleet.postgresql import parse_address

    if text.startswith(("file:", "env:")):
        return parse_address(resolve_option("--database", text))
    try:
        address = parse_address(text)
    except Error as error:
        raise UsageError(f"--database: {error.message}", hint=error.hint) from error
    if address.password is not None or "password" in address.query:
        hint = "write the address into a file or a variable, and name it as file:PATH or env:NAME"
        raise UsageError("everybody on this machine could read the password of --database", hint=hint)
    return address


def check_url(text: str) -> str:
    """Return the address of a file server, without a slash at its end. Raises `UsageError`."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise UsageError(f"this is not the address of a file server: {text}", hint="write https://HOST/PATH")
    return text.rstrip("/")


def split_address(text: str) -> tuple[str, int]:
    """Return host and port. Raises `UsageError`."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"this is not an address: {text}", hint="write HOST:PORT, such as 0.0.0.0:8443")
    return host.strip("[]"), int(port)


command.add_command(unit)
command.add_command(image)
