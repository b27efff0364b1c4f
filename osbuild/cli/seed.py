"""`edge-osbuild seed`: make the seed of one node, which is its configuration."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from osbuild.cli.location import FOLDER, LOCATION
from osbuild.cli.options import REFERENCE, as_object
from osbuild.cli.profile_name import PROFILE
from osbuild.flash.seed_insertion import insert_seed
from osbuild.host import log
from osbuild.host import output as output_files
from osbuild.host.cache import Cache
from osbuild.seed.esp_seed import find_mtools
from osbuild.seed.iso import make_iso
from osbuild.seed.node_seed import make_node_seeds
from osbuild.seed.render import SUMS
from osbuild.shared.errors import UsageError

ENROLMENT_TIME = 7 * 24 * 3600  # seconds from the seed until the device is switched on
TOKEN_VARIABLE, AUTHORITY_VARIABLE = "EDGE_OSBUILD_ENROLMENT_TOKEN", "EDGE_OSBUILD_FLEET_AUTHORITY"


@dataclass(frozen=True, kw_only=True)
class SeedOptions:
    """The arguments and options of `edge-osbuild seed`."""

    profile: str
    node: str
    settings: tuple[str, ...]
    user_file: Path | None
    output: Path | None
    into: Path | None
    enrol: bool
    signed: bool
    folder: Path | None
    secret: str | None
    pin: str | None
    as_json: bool


@click.command(short_help="make the seed of one node: its configuration")
@click.argument("profile", type=PROFILE)
@click.option(
    "--node", required=True, metavar="NAME", help="Name of the node, and its host name unless the profile sets one."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the profile for this node, such as `network.interfaces[0].addresses=[192.0.2.5/24]`.",
)
@click.option(
    "--user-data",
    "user_file",
    type=LOCATION,
    metavar="FILE",
    help="Your own cloud-config (`#cloud-config`), merged with the profile's.",
)
@click.option(
    "-o",
    "--output",
    type=LOCATION,
    help="Output: NAME.iso for a medium, or a folder. Default: NODE-seed.iso.",
)
@click.option(
    "--into",
    type=LOCATION,
    metavar="DISK",
    help="Write the seed to the ESP of this disk image or block device instead.",
)
@click.option(
    "--enrol", is_flag=True,
    help="Let the node enrol with the update server of `edge-osbuild fleet login`: the seed gets the server's address, "
    "its authority, and a token for one device.",
)  # fmt: skip
@click.option(
    "--sign", "signed", is_flag=True, help="Sign the seed, for nodes that accept only signed seeds from media."
)
@click.option("--keys", "folder", type=FOLDER, metavar="FOLDER",
              help="Keys to sign with. Default: $EDGE_OSBUILD_KEYS, or development keys.")  # fmt: skip
@click.option("--passphrase", "secret", metavar=REFERENCE, help="Passphrase of the signer's private key.")
@click.option("--pin", metavar=REFERENCE, help="PIN of the signer's PKCS#11 token.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@as_object(SeedOptions)
def command(options: SeedOptions) -> None:
    """Make the seed of the node NAME from PROFILE, in cloud-init's NoCloud format.

    The seed contains the secrets that the profile refers to: treat it like a password.
    """
    if options.into is not None and options.output is not None:
        raise UsageError("-o cannot be combined with --into", hint="run the command twice, once with each")
    if not options.signed and (options.folder or options.secret or options.pin):
        raise UsageError("--keys, --passphrase and --pin are only for --sign", hint="add --sign, or leave them out")
    settings = (*options.settings, *(enrolment_settings(options.node) if options.enrol else ()))
    (seed,) = make_node_seeds(options.profile, [options.node], settings, options.user_file)
    files = seed.with_sums()
    if options.signed:
        files = sign_files(files, options)
    if options.into is not None:
        insert_seed(files, options.into, wrap=find_mtools(Cache()))
        where = options.into
    else:
        where = options.output or Path(f"{options.node}-seed.iso")
        if where.suffix == ".iso" and not where.is_dir():
            output_files.write_output(where, make_iso(files), mode=0o600)
        else:
            with output_files.new_folder(where, mode=0o700):
                output_files.publish_files(where, files, mode=0o600, marker=SUMS)
    if options.as_json:
        report = {"node": options.node, "instance": seed.instance, "seed": str(where), "warnings": seed.warnings()}
        click.echo(json.dumps(report, indent=2))
    else:
        log.note(f"seed of {options.node} ({seed.instance}): {where}")


def enrolment_settings(node: str) -> tuple[str, ...]:
    """Return the settings with which a node enrols, with a new token for it. Raises `Error`."""
    from osbuild.cli.fleet_context import chosen_context
    from osbuild.fleet.client import FleetClient
    from osbuild.fleet.management.messages import NewEnrolmentToken

    context = chosen_context()
    token = FleetClient(context).create_enrolment_token(NewEnrolmentToken(1, ENROLMENT_TIME, f"seed of {node}", node))
    # Secrets are given by reference; those in the environment of this process are left nowhere.
    os.environ.update({TOKEN_VARIABLE: token, AUTHORITY_VARIABLE: context.authority})
    return (
        f"agent.server={context.url}", f"agent.authority=env:{AUTHORITY_VARIABLE}",
        f"agent.enrolment=env:{TOKEN_VARIABLE}",
    )  # fmt: skip


def sign_files(files: Mapping[str, bytes], options: SeedOptions) -> dict[str, bytes]:
    """Return `files` with their signature. Raises `Error` or `UsageError`."""
    # Imported here, because most seeds are not signed and cryptography takes a tenth of the time of this command.
    from osbuild.keys.development import signing_keys
    from osbuild.keys.key_access import TokenAccess, open_signer
    from osbuild.keys.private_key import resolve_passphrase
    from osbuild.sandbox.bundle_tools import bundle_tools
    from osbuild.seed.signature import sign_seed

    keys = signing_keys(options.folder)
    if keys.development:
        log.warn("signing with development keys: only images that trust them accept such a seed")
    access = TokenAccess(bundle_tools, resolve_passphrase(options.pin))
    return sign_seed(files, *open_signer(keys, resolve_passphrase(options.secret), access))
