"""`edge-osbuild keys`: create, rotate, revoke and show the keys that bundles are signed with."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from osbuild.cli.location import LOCATION
from osbuild.cli.options import REFERENCE, as_object
from osbuild.cli.table import align_columns, print_lines
from osbuild.host import log
from osbuild.keys import authority
from osbuild.keys.authority import PrivateKeyAccess
from osbuild.keys.certificate import REASONS, SIGNER_DAYS
from osbuild.keys.development import existing_keys
from osbuild.keys.key_files import PUBLIC, write_key_file
from osbuild.keys.key_report import KeyReport, report_keys
from osbuild.keys.private_key import resolve_passphrase
from osbuild.shared.errors import UsageError


@click.group(short_help="create, rotate, revoke and show signing keys")
def command() -> None:
    """Create, rotate, revoke and show the keys that sign bundles and seeds.

    A root, whose private key can be offline, signs signers; signers sign bundles. FOLDER is the key folder. Default:
    $EDGE_OSBUILD_KEYS, or the development keys, which the first build creates.
    """


def private_key_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options for access to private keys, which most of these commands have."""
    options = (
        click.option("--root-keys", type=LOCATION, metavar="FOLDER",
                     help="Folder with the roots' private keys. Default: root/ in the key folder."),
        click.option("--root-passphrase", metavar=REFERENCE, help="Passphrase of the roots' private keys."),
        click.option("--pin", metavar=REFERENCE, help="PIN of the PKCS#11 token."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def folder_argument(function: Callable[..., None]) -> Callable[..., None]:
    return click.argument("folder", required=False, type=LOCATION)(function)


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """The arguments and options of `edge-osbuild keys init`."""

    folder: Path
    owner: str
    root_keys: Path | None
    root_passphrase: str | None
    pin: str | None
    secret: str | None
    root_token: str | None
    signer_token: str | None


@command.command(short_help="create a root and a first signer")
@click.argument("folder", type=LOCATION)
@click.option("--owner", required=True, metavar="NAME", help="Organization that owns the keys, for the certificates.")
@private_key_options
@click.option("--passphrase", "secret", metavar=REFERENCE, help="Passphrase to encrypt the signer's private key with.")
@click.option("--root-token", metavar="URI", help="PKCS#11 URI of the root's key, instead of a file.")
@click.option("--signer-token", metavar="URI", help="PKCS#11 URI of the signer's key, instead of a file.")
@as_object(InitOptions)
def init(options: InitOptions) -> None:
    """Create a root and a first signer in FOLDER."""
    if (
        not options.owner.strip() or len(options.owner) > 64
    ):  # the limit of an organization's name, RFC 5280, appendix A.1
        raise UsageError("the owner must have 1 to 64 characters", hint="name your organization")
    access = PrivateKeyAccess(
        options.root_keys,
        resolve_passphrase(options.root_passphrase),
        resolve_passphrase(options.secret),
        resolve_passphrase(options.pin),
        checked_token(options.signer_token),
    )
    keys = authority.create_keys(
        options.folder.absolute(), options.owner, access, root_token=checked_token(options.root_token)
    )
    log.note(f"keys of {options.owner}: {options.folder}")
    if options.root_token is None:
        log.note(
            f"the root's private key: {access.roots(options.folder)}; keep it offline; it is only needed to rotate and "
            "revoke"
        )
    log.note(f"next: edge-osbuild bundle BUILD --keys {keys.folder}")


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """The arguments and options of `edge-osbuild keys rotate`."""

    folder: Path | None
    root_keys: Path | None
    root_passphrase: str | None
    pin: str | None
    secret: str | None
    as_root: bool
    below: str | None
    days: int | None
    uri: str | None


@command.command(short_help="create a new signer, or a new root")
@folder_argument
@private_key_options
@click.option(
    "--passphrase", "secret", metavar=REFERENCE, help="Passphrase to encrypt the new signer's private key with."
)
@click.option("--root", "as_root", is_flag=True, help="Create a new root instead of a new signer.")
@click.option("--below", metavar="ROOT", help="Root of the new signer. Default: the root of the current signer.")
@click.option("--days", type=click.IntRange(min=1), help=f"Days until the new signer expires. Default: {SIGNER_DAYS}.")
@click.option("--token", "uri", metavar="URI", help="PKCS#11 URI of the new key, instead of a file.")
@as_object(RotateOptions)
def rotate(options: RotateOptions) -> None:
    """Create a new signer, which signs from now on, or with --root a new root beside the older ones."""
    access = PrivateKeyAccess(
        options.root_keys,
        resolve_passphrase(options.root_passphrase),
        resolve_passphrase(options.secret),
        resolve_passphrase(options.pin),
        checked_token(options.uri),
    )
    path = key_folder_path(options.folder)
    if options.as_root:
        if options.below or options.days or options.secret:
            raise UsageError(
                "--below, --days and --passphrase are only for signers", hint="leave out --root, or these options"
            )
        keys = authority.rotate_root(path, access)
        log.note(f"{keys.roots[-1].name} is in the keyring of new images, and signs nothing yet")
        log.note(f"when all devices have such an image: edge-osbuild keys rotate --below {keys.roots[-1].name}")
        return
    keys = authority.rotate_signer(path, access, below=options.below, days=options.days or SIGNER_DAYS)
    log.note(f"{keys.signer} signs from now on; earlier signers stay valid until they expire or are revoked")


@dataclass(frozen=True, kw_only=True)
class RevokeOptions:
    """The arguments and options of `edge-osbuild keys revoke`."""

    name: str
    folder: Path | None
    root_keys: Path | None
    root_passphrase: str | None
    pin: str | None
    reason: str


@command.command(short_help="revoke a signer, or remove a root from the keyring")
@click.argument("name")
@folder_argument
@private_key_options
@click.option("--reason", type=click.Choice(sorted(REASONS)), default="superseded", show_default=True,
              help="Reason for the revocation list.")  # fmt: skip
@as_object(RevokeOptions)
def revoke(options: RevokeOptions) -> None:
    """Revoke the signer NAME, or remove the root NAME from the keyring.

    The revocation list is part of the image: devices get it with their next update.
    """
    secret, pin = resolve_passphrase(options.root_passphrase), resolve_passphrase(options.pin)
    access = PrivateKeyAccess(options.root_keys, secret, None, pin)
    keys = authority.revoke_key(key_folder_path(options.folder), options.name, access, reason=options.reason)
    log.note(f"{options.name}: devices refuse its signatures once they run an image that is built after this")
    if options.name == keys.signer:
        log.note(f"bundles cannot be signed until there is a new signer; next: edge-osbuild keys rotate {keys.folder}")


@command.command(short_help="show all keys, their expiry dates and revocations")
@folder_argument
@click.option("--root-keys", type=LOCATION, metavar="FOLDER",
              help="Folder with the roots' private keys. Default: root/ in the key folder.")  # fmt: skip
@click.option("--keyring", type=LOCATION, metavar="FILE",
              help="Also write the keyring of devices to FILE.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(folder: Path | None, root_keys: Path | None, keyring: Path | None, as_json: bool) -> None:
    """Show all keys, when they expire, and which are revoked."""
    keys = existing_keys(folder.absolute() if folder else None)
    report = report_keys(keys, root_folder=root_keys)
    if keyring is not None:
        write_key_file(keyring, keys.keyring(), mode=PUBLIC)
    if as_json:
        click.echo(json.dumps(report_json(report), indent=2))
    else:
        print_lines(report_lines(report))
    for warning in () if as_json else report.warnings:
        log.warn(warning)


def key_folder_path(folder: Path | None) -> Path:
    """Return `folder`, or the default key folder. Raises `Error` if it has no keys."""
    return existing_keys(folder.absolute() if folder else None).folder


def checked_token(uri: str | None) -> str | None:
    """Check and return `uri`. Raises `UsageError` if it is not a PKCS#11 URI."""
    from osbuild.keys.pkcs11_token import check_uri, is_token

    if uri is not None and not is_token(uri):
        raise UsageError(f"`{uri}` is not a PKCS#11 URI", hint="write pkcs11:token=…;object=… (RFC 7512)")
    return check_uri(uri) if uri else None


def report_json(report: KeyReport) -> dict[str, Any]:
    """Return the report as JSON values; times are ISO 8601 in UTC."""

    def simple(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: simple(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [simple(inner) for inner in value]
        return value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, Path) else value

    plain: dict[str, Any] = simple(asdict(report))
    for line in plain["lines"]:
        if line["revoked"]:
            line["revoked"]["serial"] = f"{line['revoked']['serial']:x}"  # too large for an exact number in JSON
    return {**{name: value for name, value in plain.items() if name != "lines"}, "keys": plain["lines"]}


def report_lines(report: KeyReport) -> Iterator[str]:
    """Yield the report for people, line by line."""
    yield f"{report.folder}: keys of {report.owner}" + (", for development only" if report.development else "")
    rows = []
    for line in report.lines:
        state = line.state
        if line.revoked:
            state += f" {line.revoked.when:%Y-%m-%d}, {line.revoked.reason}"
        until = f"until {line.ends:%Y-%m-%d}" + (f", {line.days} days" if line.days >= 0 else ", over")
        rows.append((line.name, state, until, f"below {line.root}" if line.root else "", f"key: {line.key}"))
    yield from align_columns(rows)
