"""`edge-osbuild fleet request`: requests of an operator to one device."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_connection import connect, format_time, print_json
from osbuild.cli.location import LOCATION
from osbuild.cli.options import as_object
from osbuild.cli.table import align_columns, print_lines
from osbuild.host import log
from osbuild.host.output import output_path, write_output
from osbuild.shared.errors import UsageError
from osbuild.shared.operator_requests import RequestKind

if TYPE_CHECKING:
    from osbuild.fleet.management.messages import RequestView

WATCH = 2.0  # seconds
MINUTE = 60
PRIVATE = 0o600
ENDED = ("succeeded", "failed", "rejected", "expired")


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """The arguments and options of `edge-osbuild fleet request`."""

    device: str
    kind: str
    expires: int
    wait: bool
    output: Path | None
    yes: bool
    as_json: bool


@click.command(short_help="request diagnostics, a reboot and more of a device")
@click.argument("device")
@click.argument("kind", type=click.Choice([kind.value for kind in RequestKind]))
@click.option("--expires", type=click.IntRange(1, 24 * 60), default=60, show_default=True, metavar="MINUTES",
              help="The device does it within this time, or never.")  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait for the end. Exit status 1 unless it has succeeded.")
@click.option("-o", "--output", type=LOCATION, metavar="FILE",
              help="Wait, and write the diagnostics (.tar.gz) to this file.")  # fmt: skip
@click.option("--yes", is_flag=True, help="Needed for `wipe`, which destroys all data of the device.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@as_object(RequestOptions)
def request(options: RequestOptions) -> None:
    """Request something of the DEVICE, which gets the request at its next poll.

    diagnostics: journal, state of units, disks and cluster, without secrets. reboot. rotate: a new key and certificate.
    rollback: return to the other slot. wipe: destroy the keys, then all data. The profile of the device says which of
    them it obeys (agent.requests).
    """
    from osbuild.fleet.management.messages import NewRequest

    if options.kind == RequestKind.wipe and not options.yes:
        raise UsageError(f"this destroys all data of {options.device}", hint="add --yes")
    if options.output is not None and options.kind != RequestKind.diagnostics:
        raise UsageError(f"`{options.kind}` has no file to write", hint="remove --output")
    if options.output is not None:
        output_path(options.output)  # before the device is asked
    client = connect()
    view = client.create_request(options.device, NewRequest(RequestKind(options.kind), options.expires * MINUTE))
    if options.wait or options.output:
        log.note(f"request {view.id}: waiting until {format_time(view.expires)} UTC; after Ctrl+C, {later(view)}")
    while (options.wait or options.output) and view.state not in ENDED:
        time.sleep(WATCH)
        view = client.read_request(view.id)
    if options.as_json:
        print_json(view)
    else:
        print_request(view)
    if (options.wait or options.output) and view.state != "succeeded":
        raise SystemExit(1)
    if options.output is not None:
        write_diagnostics(view.id, options.output)


@click.command(short_help="list requests to devices")
@click.argument("device", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def requests(device: str | None, as_json: bool) -> None:
    """List the newest requests to all devices, or to one DEVICE."""
    views = connect().list_requests(device)
    if as_json:
        print_json(views)
    elif views:
        print_lines(align_columns([request_row(view) for view in views]))
    else:
        click.echo("there are no requests; `edge-osbuild fleet request` makes one")


@click.command(short_help="download diagnostics")
@click.argument("number", type=int)
@click.option("-o", "--output", type=LOCATION, required=True, metavar="FILE", help="File to write (.tar.gz).")
def diagnostics(number: int, output: Path) -> None:
    """Download the diagnostics of the request NUMBER."""
    write_diagnostics(number, output)


def write_diagnostics(number: int, output: Path) -> None:
    """Download diagnostics into a file that only the user may read. Raises `Error`."""
    output_path(output)
    write_output(output, connect().download_diagnostics(number), mode=PRIVATE)


def later(view: "RequestView") -> str:
    """Return which command shows later how a request has ended."""
    if view.kind == RequestKind.diagnostics:
        return f"`edge-osbuild fleet diagnostics {view.id} -o FILE` gets the file later"
    return f"`edge-osbuild fleet requests {view.device}` shows the result"


def print_request(view: "RequestView") -> None:
    """Print a request and what the device says about it."""
    print_lines([f"request {view.id}: {view.kind} of {view.device}, {view.state}", *(f"  {x}" for x in view.details)])


def request_row(view: "RequestView") -> tuple[str, ...]:
    """Return the columns of one request."""
    last = view.details[0] if view.details else ""
    return (str(view.id), format_time(view.created), view.device, view.kind, view.state, view.who, last)
