"""`edge-osbuild serve backup` and `restore`."""

from pathlib import Path

import click

from osbuild.cli.fleet_connection import format_time
from osbuild.cli.location import LOCATION
from osbuild.host import log
from osbuild.shared.errors import Error

DATA = click.option("--data", type=LOCATION, metavar="FOLDER", help="Data folder. Default: that of `serve`.")


@click.command("backup")
@click.argument("file", type=LOCATION)
@DATA
@click.option("--without-bundles", is_flag=True, help="Leave out the bundles; publish them again after a restore.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def backup_folder(context: click.Context, file: Path, data: Path | None, without_bundles: bool, force: bool) -> None:
    """Write database, keys and bundles to one FILE, while the server runs or not.

    The file has the private keys of the authorities: whoever has it can pretend to be the server.
    """
    from osbuild.fleet.backup import write_backup

    if not force and file.exists():
        raise Error("this file exists", where=str(file), hint="name another file, or replace it with --force")
    write_backup(data or data_of_group(context), file, bundles=not without_bundles)
    log.note(f"wrote {file}, which has private keys")


@click.command("restore")
@click.argument("file", type=LOCATION)
@DATA
@click.pass_context
def restore_folder(context: click.Context, file: Path, data: Path | None) -> None:
    """Make a data folder from a backup in FILE. The folder must be new or empty."""
    from osbuild.fleet.backup import restore_backup

    target = data or data_of_group(context)
    restoration = restore_backup(file, target)
    log.note(f"restored {file} to {target}")
    since = "the backup was written" if restoration.created is None else f"{format_time(restoration.created)} UTC"
    log.warn(f"end again what you ended since {since}: devices that were decommissioned and tokens that were revoked "
             "are accepted again")  # fmt: skip
    for bundle in restoration.lost:
        log.warn(f"the file of the bundle {bundle.id} ({bundle.name} {bundle.version}) is missing: publish the same "
                 f"file again, {bundle.filename}")  # fmt: skip


def data_of_group(context: click.Context) -> Path:
    """Return the data folder that is named before the name of a command, or the default."""
    assert context.parent is not None
    folder: Path = context.parent.params["data"]
    return folder
