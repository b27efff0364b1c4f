"""`edge-osbuild bundle`: make signed update bundles of builds."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from osbuild import log
from osbuild.bundle import source, trust
from osbuild.bundle.pack import make
from osbuild.bundle.programs import programs
from osbuild.bundle.signing import prepare
from osbuild.bundle.source import Source
from osbuild.cache import Cache
from osbuild.cli.keys import REFERENCE
from osbuild.cli.location import LOCATION
from osbuild.errors import UsageError
from osbuild.keys.development import current
from osbuild.keys.private import passphrase

SUFFIX = ".raucb"


@click.command(short_help="make a signed update bundle from a build")
@click.argument("builds", nargs=-1, required=True, type=LOCATION, metavar="BUILD...")
@click.option("-o", "--output", type=LOCATION, metavar="F.raucb|FOLDER",
              help="Output; a folder for several builds. Default: bundle.raucb in the build folder.")  # fmt: skip
@click.option("--keys", "folder", type=LOCATION, metavar="FOLDER",
              help="Keys to sign with. Default: $EDGE_OSBUILD_KEYS, or development keys.")  # fmt: skip
@click.option("--passphrase", "secret", metavar=REFERENCE, help="Passphrase of the signer's private key.")
@click.option("--pin", metavar=REFERENCE, help="PIN of the signer's PKCS#11 token.")
@click.option("--allow-downgrade-from", "downgrade", metavar="VERSION",
              help="Allow devices that run VERSION to install this older version.")  # fmt: skip
@click.option("--change-owner", is_flag=True,
              help="Allow an image that does not trust the keys that sign its bundle.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    builds: tuple[Path, ...], output: Path | None, folder: Path | None, secret: str | None, pin: str | None,
    downgrade: str | None, change_owner: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a signed bundle from each BUILD, a build folder.

    A bundle is for one board, and fits either slot.
    """
    sources = [permitted(source.read(build.absolute()), downgrade, change_owner=change_owner) for build in builds]
    targets = places(sources, output)
    keys = current(folder.absolute() if folder else None)
    if keys.development:
        log.warn("signing with development keys: only images that trust them accept such a bundle")
    for each in sources:
        trust.check(each, keys)
    cache = Cache()
    signing = prepare(keys, programs(cache), secret=passphrase(secret), pin=passphrase(pin))
    made = [make(each, target, signing, cache) for each, target in zip(sources, targets, strict=True)]
    if as_json:
        plain = [
            {
                "path": str(bundle.path), "size": bundle.size, "sha256": bundle.sha256,
                "compatible": bundle.source.compatible, "version": bundle.source.version, "signer": bundle.signer,
                "development": keys.development,
            }
            for bundle in made
        ]  # fmt: skip
        click.echo(json.dumps(plain, indent=2))
    for bundle in () if as_json else made:
        log.note(
            f"{bundle.path}: {bundle.size / 2**20:.0f} MiB, {bundle.source.version} for {bundle.source.compatible}, "
            f"signed by {bundle.signer} of {keys.owner} (until {signing.certificate.not_valid_after_utc:%Y-%m-%d})"
        )


def permitted(made: Source, downgrade: str | None, *, change_owner: bool = False) -> Source:
    """The same with permissions: to replace version `downgrade`, and to change the owner of devices.

    Raises `UsageError` if `downgrade` is not a version.
    """
    made = replace(made, change_owner=change_owner)
    if downgrade is None:
        return made
    if not source.SEMANTIC.fullmatch(downgrade):
        hint = "write the version that runs on the devices, such as --allow-downgrade-from 1.2.3"
        raise UsageError(f"`{downgrade}` is not a version", where="--allow-downgrade-from", hint=hint)
    return replace(made, downgrade=downgrade)


def places(sources: Sequence[Source], output: Path | None) -> list[Path]:
    """Where the bundle of each source goes. Raises `UsageError` where two would go to one place."""
    if output is None:
        found = [each.folder / f"bundle{SUFFIX}" for each in sources]
    elif output.is_dir():
        found = [output.absolute() / f"{each.title}{SUFFIX}" for each in sources]
    elif len(sources) > 1:
        hint = f"a bundle is for one board: name an existing folder, such as {output.parent}"
        raise UsageError(f"{len(sources)} builds cannot be in one bundle", where=str(output), hint=hint)
    elif output.suffix != SUFFIX:
        hint = f"write {output}{SUFFIX}, or create that folder first"
        raise UsageError(f"the name of a bundle must end in {SUFFIX}", where=str(output), hint=hint)
    else:
        found = [output.absolute()]
    for number, path in enumerate(found):
        if path in found[:number]:
            hint = "name every build once; for two versions of one board, run the command twice with -o"
            raise UsageError(f"two builds would be written to {path}", hint=hint)
    return found
