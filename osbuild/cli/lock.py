"""`edge-osbuild lock`: pin every input of a profile by sha256."""

from pathlib import Path

import click

from osbuild.arch import Architecture
from osbuild.cache import Cache
from osbuild.lock import make, save
from osbuild.paths import display
from osbuild.profile.load import find, load


@click.command()
@click.argument("profile")
@click.option("--arch", type=click.Choice([str(a) for a in Architecture]), help="Architecture, if not the profile's.")
@click.option("--from", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder with downloads, looked into before the network.")  # fmt: skip
def command(profile: str, arch: str | None, folder: Path | None) -> None:
    """Resolve every input of PROFILE anew, and write the lock beside it."""
    loaded = load(find(profile), architecture=Architecture(arch) if arch else None)
    lock = make(loaded, loaded.profile.architecture, Cache(), folder=folder)
    path = save(loaded, lock)
    click.echo(f"{display(path)}: {len(lock.packages)} packages, {lock.kernel.name} {lock.kernel.version}")
    if lock.kubernetes:
        click.echo(f"Kubernetes: {lock.kubernetes['distribution']} {lock.kubernetes['version']}")
