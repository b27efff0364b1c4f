"""`edge-osbuild build`: build an image from a profile."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import click

from osbuild.cli.board_options import board_options, chosen_boards
from osbuild.cli.location import FOLDER, LOCATION
from osbuild.cli.options import as_object
from osbuild.cli.profile_name import PROFILE
from osbuild.cli.table import print_lines
from osbuild.host import log
from osbuild.host.cache import Cache
from osbuild.host.modes import UMASK
from osbuild.host.paths import display_path
from osbuild.inputs.context import BuildContext
from osbuild.keys.development import signing_keys
from osbuild.pipeline.build import build_image
from osbuild.pipeline.manifest import DEVELOPMENT, summarize_build


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """The arguments and options of `edge-osbuild build`."""

    profile: str
    arch: str | None
    board: str | None
    output: Path
    locked: bool
    folder: Path | None
    key_folder: Path | None
    as_json: bool


@click.command()
@click.argument("profile", type=PROFILE)
@board_options
@click.option(
    "-o", "--output", type=LOCATION, default=Path("build"), help="Folder in which the build folder is created."
)
@click.option("--locked", is_flag=True, help="Fail if the lock is missing or does not match the profile.")
@click.option("--from", "folder", type=FOLDER,
              help="Folder with packages and downloads, searched before the network.")  # fmt: skip
@click.option("--keys", "key_folder", type=LOCATION, metavar="FOLDER",
              help="Keys that the image trusts. Default: $EDGE_OSBUILD_KEYS, or development keys.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the build manifest as JSON; for several images a list.")
@as_object(BuildOptions)
def command(options: BuildOptions) -> None:
    """Build the image of PROFILE, the name of a shipped profile or a file."""
    os.umask(UMASK)
    builds = []
    context = BuildContext(Cache(), options.folder, options.locked)
    keys = signing_keys(options.key_folder.absolute() if options.key_folder else None)
    keys.keyring()  # reports damaged keys before packages are resolved, which may take a minute
    for loaded, target in chosen_boards(options.profile, options.arch, options.board):
        before = len(log.timings())
        builds.append(build_image(loaded, target, options.output, context, keys=keys))
        if not options.as_json:
            if not builds[-1].fresh:
                log.note("nothing changed since the last build")
            print_lines(
                summarize_build(builds[-1].manifest, Path(display_path(builds[-1].folder)), log.timings()[before:])
            )
    if keys.development:
        log.warn(DEVELOPMENT)
    if options.as_json:
        manifests = [build.manifest.to_json() for build in builds]
        click.echo(json.dumps(manifests if len(manifests) > 1 else manifests[0], indent=1))
