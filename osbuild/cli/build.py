"""`edge-osbuild build`: compose an image from a profile."""

import json
from pathlib import Path

import click

from osbuild import log
from osbuild.arch import Architecture
from osbuild.build import build
from osbuild.cache import Cache
from osbuild.manifest import summary
from osbuild.paths import display
from osbuild.profile.load import find, load


@click.command()
@click.argument("profile")
@click.option("--arch", type=click.Choice([str(a) for a in Architecture]), help="Architecture, if not the profile's.")
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("build"), help="Folder of builds.")
@click.option("--locked", is_flag=True, help="Fail rather than make a new lock.")
@click.option("--from", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder with packages and downloads, looked into before the network.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the manifest.")
def command(profile: str, arch: str | None, output: Path, locked: bool, folder: Path | None, as_json: bool) -> None:
    """Compose the image of PROFILE: a shipped profile's name, or a file."""
    wanted = Architecture(arch) if arch else None
    loaded = load(find(profile), architecture=wanted)
    done = build(loaded, loaded.profile.architecture, output, Cache(), locked=locked, folder=folder)
    if as_json:
        click.echo(json.dumps(done.facts, indent=1))
    else:
        if not done.fresh:
            log.note("nothing changed since the last build")
        click.echo(summary(done.facts, Path(display(done.folder)), log.timings()))
