"""`edge-osbuild publish`: upload a bundle to an update server."""

from pathlib import Path

import click

from osbuild.cli.location import LOCATION
from osbuild.shared.sizes import format_decimal


@click.command(short_help="upload a bundle to an update server")
@click.argument("bundle", type=LOCATION)
@click.option("--json", "as_json", is_flag=True, help="Print the bundle as JSON.")
def command(bundle: Path, as_json: bool) -> None:
    """Upload BUNDLE to the update server of `edge-osbuild fleet login`, which checks its signature."""
    import msgspec

    from osbuild.fleet.client import FleetClient, load_context

    view = FleetClient(load_context()).publish_bundle(bundle)
    if as_json:
        click.echo(msgspec.json.encode(view))
    else:
        click.echo(f"{view.id}: {view.name} {view.version} for {view.compatible}, {format_decimal(view.size)}")
