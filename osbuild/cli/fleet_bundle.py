"""`edge-osbuild fleet bundle`: the bundles of an update server."""

import click

from osbuild.cli.fleet_completion import complete_bundles
from osbuild.cli.fleet_connection import connect, format_time, print_json
from osbuild.cli.table import align_columns, print_lines
from osbuild.shared.sizes import format_decimal


@click.group(short_help="list and delete bundles")
def bundle() -> None:
    """List and delete the bundles of an update server. `edge-osbuild publish` adds one."""


@bundle.command("list", short_help="list bundles")
@click.option("--json", "as_json", is_flag=True, help="Print the bundles as JSON.")
def list_all(as_json: bool) -> None:
    """List the bundles, the newest first."""
    views = connect().list_bundles()
    if as_json:
        print_json(views)
    elif views:
        rows = [
            (str(view.id), f"{view.name} {view.version}", view.compatible, format_decimal(view.size),
             format_time(view.created), "file missing: publish it again" if view.missing else "")
            for view in views
        ]  # fmt: skip
        print_lines(align_columns(rows))
    else:
        click.echo("there is no bundle; `edge-osbuild publish` uploads one")


@bundle.command(short_help="delete a bundle")
@click.argument("number", type=int, metavar="BUNDLE", shell_complete=complete_bundles)
def delete(number: int) -> None:
    """Delete the bundle with the number BUNDLE, if no device is told to install it and no rollout needs it."""
    connect().delete_bundle(number)
    click.echo(f"deleted the bundle {number}")
