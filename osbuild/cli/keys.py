"""`edge-osbuild keys`: make, rotate, revoke and show the keys that bundles are signed with."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from osbuild import log
from osbuild.cli.location import LOCATION
from osbuild.cli.table import columns
from osbuild.errors import UsageError
from osbuild.keys import authority
from osbuild.keys.authority import Access
from osbuild.keys.certificate import REASONS, SIGNER_DAYS
from osbuild.keys.development import chosen
from osbuild.keys.files import PUBLIC, write
from osbuild.keys.private import passphrase
from osbuild.keys.report import Report, report

REFERENCE = "file:PATH|env:NAME"


@click.group(short_help="make, rotate, revoke and show signing keys")
def command() -> None:
    """Make, rotate, revoke and show the keys that bundles are signed with.

    A root, whose private key can be kept offline, signs signers, and those sign bundles. FOLDER is where they are;
    without it, $EDGE_OSBUILD_KEYS or the development keys, which the first bundle makes.
    """


def options(function: Callable[..., None]) -> Callable[..., None]:
    """How private keys are reached: options that most of these commands have."""
    wanted = (
        click.option("--root-keys", type=LOCATION, metavar="FOLDER",
                     help="Where the roots' private keys are. Default: root/ in the key folder."),
        click.option("--root-passphrase", metavar=REFERENCE, help="What the roots' private keys are encrypted by."),
        click.option("--pin", metavar=REFERENCE, help="PIN of the PKCS#11 token."),
    )  # fmt: skip
    for option in reversed(wanted):
        function = option(function)
    return function


def folder_argument(function: Callable[..., None]) -> Callable[..., None]:
    return click.argument("folder", required=False, type=LOCATION)(function)


@command.command()
@click.argument("folder", type=LOCATION)
@click.option("--owner", required=True, metavar="NAME", help="Who answers for these keys: goes into the certificates.")
@options
@click.option("--passphrase", "secret", metavar=REFERENCE, help="Encrypt the signer's private key by this.")
@click.option("--root-token", metavar="URI", help="Take the root's key from this PKCS#11 URI instead of a file.")
@click.option("--signer-token", metavar="URI", help="Take the signer's key from this PKCS#11 URI instead of a file.")
def init(
    folder: Path, owner: str, root_keys: Path | None, root_passphrase: str | None, pin: str | None, secret: str | None,
    root_token: str | None, signer_token: str | None,
) -> None:  # fmt: skip
    """Make a root and a first signer in FOLDER."""
    if not owner.strip() or len(owner) > 64:  # the bound of an organization's name, RFC 5280, appendix A.1
        raise UsageError("the owner must have 1 to 64 characters", hint="name your organization")
    access = Access(root_keys, passphrase(root_passphrase), passphrase(secret), passphrase(pin), token(signer_token))
    made = authority.init(folder.absolute(), owner, access, root_token=token(root_token))
    log.note(f"keys of {owner}: {folder}")
    if root_token is None:
        log.note(f"the root's private key: {access.roots(folder)}; keep it offline, it is needed to rotate and revoke")
    log.note(f"next: edge-osbuild bundle BUILD --keys {made.folder}")


@command.command()
@folder_argument
@options
@click.option("--passphrase", "secret", metavar=REFERENCE, help="Encrypt the new signer's private key by this.")
@click.option("--root", "as_root", is_flag=True, help="Make a new root, not a new signer.")
@click.option("--below", metavar="ROOT", help="Root of the new signer. Default: that of the one before it.")
@click.option("--days", type=click.IntRange(min=1), help=f"Life of the new signer. Default: {SIGNER_DAYS}.")
@click.option("--token", "uri", metavar="URI", help="Take the new key from this PKCS#11 URI instead of a file.")
def rotate(
    folder: Path | None, root_keys: Path | None, root_passphrase: str | None, pin: str | None, secret: str | None,
    as_root: bool, below: str | None, days: int | None, uri: str | None,
) -> None:  # fmt: skip
    """Make a new signer, which signs from now on, or with --root a new root beside the older ones."""
    access = Access(root_keys, passphrase(root_passphrase), passphrase(secret), passphrase(pin), token(uri))
    place = where(folder)
    if as_root:
        if below or days or secret:
            raise UsageError("--below, --days and --passphrase are of signers", hint="leave out --root, or these")
        keys = authority.rotate_root(place, access)
        log.note(f"{keys.roots[-1].name} is in the keyring of images from now on, and signs nothing yet")
        log.note(f"when all devices have such an image: edge-osbuild keys rotate --below {keys.roots[-1].name}")
        return
    keys = authority.rotate_signer(place, access, below=below, days=days or SIGNER_DAYS)
    log.note(f"{keys.signer} signs from now on; the signers before it stay valid until they expire or are revoked")


@command.command()
@click.argument("name")
@folder_argument
@options
@click.option("--reason", type=click.Choice(sorted(REASONS)), default="superseded", show_default=True)
def revoke(
    name: str, folder: Path | None, root_keys: Path | None, root_passphrase: str | None, pin: str | None, reason: str
) -> None:
    """Revoke the signer NAME, or take the root NAME out of the keyring.

    Devices know of it from their next update on: the list is part of the image.
    """
    access = Access(root_keys, passphrase(root_passphrase), None, passphrase(pin))
    keys = authority.revoke(where(folder), name, access, reason=reason)
    log.note(f"{name}: devices refuse what it signs as soon as they run an image built from now on")
    if name == keys.signer:
        log.note(f"it signs no more; next: edge-osbuild keys rotate {keys.folder}")


@command.command()
@folder_argument
@click.option("--root-keys", type=LOCATION, metavar="FOLDER",
              help="Where the roots' private keys are. Default: root/ in the key folder.")  # fmt: skip
@click.option("--keyring", type=LOCATION, metavar="FILE",
              help="Also write what devices check bundles by to FILE.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(folder: Path | None, root_keys: Path | None, keyring: Path | None, as_json: bool) -> None:
    """Show which keys there are, until when they are good, and what is revoked."""
    keys = chosen(folder.absolute() if folder else None)
    found = report(keys, root_folder=root_keys)
    if keyring is not None:
        write(keyring, keys.keyring(), mode=PUBLIC)
    click.echo(json.dumps(to_json(found), indent=2) if as_json else "\n".join(lines(found)))
    for warning in () if as_json else found.warnings:
        log.warn(warning)


def where(folder: Path | None) -> Path:
    """The key folder that is meant. Raises `Error` where there are no keys."""
    return chosen(folder.absolute() if folder else None).folder


def token(uri: str | None) -> str | None:
    """`uri` itself. Raises `UsageError` where it is none."""
    from osbuild.keys.token import check_uri, is_token

    if uri is not None and not is_token(uri):
        raise UsageError(f"`{uri}` is no PKCS#11 URI", hint="write pkcs11:token=…;object=… (RFC 7512)")
    return check_uri(uri) if uri else None


def to_json(found: Report) -> dict[str, Any]:
    """The report as JSON can write it; times are ISO 8601 in UTC."""

    def simple(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: simple(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple):
            return [simple(inner) for inner in value]
        return value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, Path) else value

    plain: dict[str, Any] = simple(asdict(found))
    for line in plain["lines"]:
        if line["revoked"]:
            line["revoked"]["serial"] = f"{line['revoked']['serial']:x}"  # larger than JSON's numbers are exact
    return {**{name: value for name, value in plain.items() if name != "lines"}, "keys": plain["lines"]}


def lines(found: Report) -> Iterator[str]:
    """The report for people."""
    yield f"{found.folder}: keys of {found.owner}" + (", for development only" if found.development else "")
    rows = []
    for line in found.lines:
        state = line.state
        if line.revoked:
            state += f" {line.revoked.when:%Y-%m-%d}, {line.revoked.reason}"
        until = f"until {line.ends:%Y-%m-%d}" + (f", {line.days} days" if line.days >= 0 else ", over")
        rows.append((line.name, state, until, f"below {line.root}" if line.root else "", f"key: {line.key}"))
    yield from columns(rows)
