"""What all commands of `edge-osbuild fleet` share: the remembered server, and how values are printed."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_context import chosen_context
from osbuild.host import log
from osbuild.shared.counts import format_count
from osbuild.shared.quoting import escaped_json

if TYPE_CHECKING:
    from osbuild.fleet.client import FleetClient


def connect() -> "FleetClient":
    """Return a client of the remembered server. Raises `Error`."""
    from osbuild.fleet.client import FleetClient

    return FleetClient(chosen_context())


def format_time(milliseconds: int) -> str:
    """Return a time for people, in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def note_unsaid(number: int) -> None:
    """Print how many of the devices have not said for which bundles they are."""
    if number:
        have, they = ("has", "it is") if number == 1 else ("have", "they are")
        message = f"{format_count(number, 'device')} {have} not said what {they}"
        log.warn(f"{message} (attribute `compatible`): RAUC refuses a bundle for others only on the device")


def print_json(value: object) -> None:
    """Print a view as JSON, without characters that a terminal would obey."""
    import msgspec

    click.echo(escaped_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))
