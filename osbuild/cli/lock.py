"""`edge-osbuild lock`: pin every input of a profile by sha256."""

from pathlib import Path

import click

from osbuild.cli.board_options import board_options, chosen_boards
from osbuild.cli.location import FOLDER
from osbuild.cli.profile_name import PROFILE
from osbuild.cli.table import print_lines
from osbuild.host.cache import Cache
from osbuild.host.paths import display_path
from osbuild.inputs.context import BuildContext
from osbuild.inputs.lock import save_lock
from osbuild.pipeline.resolve import make_lock


@click.command()
@click.argument("profile", type=PROFILE)
@board_options
@click.option("--from", "folder", type=FOLDER,
              help="Folder with downloads, searched before the network.")  # fmt: skip
@click.option("--without", multiple=True, metavar="SUITE",
              help="Leave out this suite (such as trixie-security) if its index does not match its signed Release "
                   "file.")  # fmt: skip
def command(profile: str, arch: str | None, board: str | None, folder: Path | None, without: tuple[str, ...]) -> None:
    """Resolve every input of PROFILE again, and write its lock."""
    for loaded, target in chosen_boards(profile, arch, board):
        lock = make_lock(loaded, target, BuildContext(Cache(), folder), without=without)
        path = save_lock(loaded, lock)
        packages = f"{len(lock.packages)} packages, {lock.kernel.name} {lock.kernel.version}"
        print_lines([f"{display_path(path)}: {lock.board}: {packages}"])
        if lock.kubernetes:
            print_lines([f"Kubernetes: {lock.kubernetes.distribution} {lock.kubernetes.version}"])
