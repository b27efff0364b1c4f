"""`edge-osbuild bundle`: make signed update bundles of builds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from osbuild.bundle import source, trust
from osbuild.bundle.pack import make_bundle
from osbuild.bundle.signing import prepare_signing
from osbuild.bundle.source import BundleSource
from osbuild.cli.location import LOCATION
from osbuild.cli.options import REFERENCE, as_object
from osbuild.host import log
from osbuild.host.cache import Cache
from osbuild.keys.development import signing_keys
from osbuild.keys.private_key import resolve_passphrase
from osbuild.sandbox.bundle_tools import bundle_tools
from osbuild.shared.errors import UsageError
from osbuild.shared.image_versions import is_image_version
from osbuild.shared.sizes import format_bytes

SUFFIX = ".raucb"


@dataclass(frozen=True, kw_only=True)
class BundleOptions:
    """The arguments and options of `edge-osbuild bundle`."""

    builds: tuple[Path, ...]
    output: Path | None
    folder: Path | None
    secret: str | None
    pin: str | None
    downgrade: str | None
    change_owner: bool
    as_json: bool


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
@as_object(BundleOptions)
def command(options: BundleOptions) -> None:
    """Make a signed bundle from each BUILD, a build folder.

    A bundle is for one board, and fits either slot.
    """
    sources = [
        with_permissions(source.read_build(build.absolute()), options.downgrade, change_owner=options.change_owner)
        for build in options.builds
    ]
    targets = bundle_paths(sources, options.output)
    keys = signing_keys(options.folder.absolute() if options.folder else None)
    if keys.development:
        log.warn("signing with development keys: only images that trust them accept such a bundle")
    for build_source in sources:
        trust.check_trust(build_source, keys)
    cache = Cache()
    tools = bundle_tools(cache)
    for build_source in sources:
        trust.check_image(build_source, tools)
    signing = prepare_signing(
        keys, tools, secret=resolve_passphrase(options.secret), pin=resolve_passphrase(options.pin)
    )
    bundles = [
        make_bundle(build_source, target, signing, cache) for build_source, target in zip(sources, targets, strict=True)
    ]
    if options.as_json:
        results = [
            {
                "path": str(bundle.path), "size": bundle.size, "sha256": bundle.sha256,
                "compatible": bundle.source.compatible, "version": bundle.source.version, "signer": bundle.signer,
                "development": keys.development,
            }
            for bundle in bundles
        ]  # fmt: skip
        click.echo(json.dumps(results, indent=2))
    for bundle in () if options.as_json else bundles:
        log.note(
            f"{bundle.path}: {format_bytes(bundle.size)}, {bundle.source.version} for {bundle.source.compatible}, "
            f"signed by {bundle.signer} of {keys.owner} (until {signing.certificate.not_valid_after_utc:%Y-%m-%d})"
        )


def with_permissions(build_source: BundleSource, downgrade: str | None, *, change_owner: bool = False) -> BundleSource:
    """Add permissions: to replace the newer version `downgrade`, and to change the owner of devices.

    Raises `UsageError` if `downgrade` is not a version.
    """
    build_source = replace(build_source, change_owner=change_owner)
    if downgrade is None:
        return build_source
    if not is_image_version(downgrade):
        hint = "write the version that runs on the devices, such as --allow-downgrade-from 1.2.3"
        raise UsageError(f"`{downgrade}` is not a version", where="--allow-downgrade-from", hint=hint)
    return replace(build_source, downgrade=downgrade)


def bundle_paths(sources: Sequence[BundleSource], output: Path | None) -> list[Path]:
    """Return the path of the bundle of each source. Raises `UsageError` if two would have the same path."""
    if output is None:
        paths = [build_source.folder / f"bundle{SUFFIX}" for build_source in sources]
    elif output.is_dir():
        paths = [output.absolute() / f"{build_source.title}{SUFFIX}" for build_source in sources]
    elif len(sources) > 1:
        hint = f"a bundle is for one board: name an existing folder, such as {output.parent}"
        raise UsageError(f"{len(sources)} builds cannot be in one bundle", where=str(output), hint=hint)
    elif output.suffix != SUFFIX:
        hint = f"write {output}{SUFFIX}, or create that folder first"
        raise UsageError(f"the name of a bundle must end in {SUFFIX}", where=str(output), hint=hint)
    else:
        paths = [output.absolute()]
    for number, path in enumerate(paths):
        if path in paths[:number]:
            hint = "name every build once; for two versions of one board, run the command twice with -o"
            raise UsageError(f"two builds would be written to {path}", hint=hint)
    return paths
