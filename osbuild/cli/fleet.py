"""`edge-osbuild fleet`: the devices of an update server."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_bundle import bundle
from osbuild.cli.fleet_completion import complete_bundles, complete_devices
from osbuild.cli.fleet_connection import connect, format_time, note_unsaid, print_json
from osbuild.cli.fleet_context import context, context_option
from osbuild.cli.fleet_request import diagnostics, request, requests
from osbuild.cli.fleet_rollout import WATCH, rollout
from osbuild.cli.fleet_tag import tag
from osbuild.cli.fleet_token import TOKEN_COMMANDS
from osbuild.cli.location import LOCATION
from osbuild.cli.maintenance_options import parse_maintenance, window_options
from osbuild.cli.options import as_object, resolve_option
from osbuild.cli.table import align_columns, print_lines
from osbuild.host import log
from osbuild.shared.errors import Error, UsageError

if TYPE_CHECKING:
    from osbuild.fleet.management.messages import DeviceView


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """The arguments and options of `edge-osbuild fleet update`."""

    name: str
    bundle: int
    kind: str
    confirm: bool
    window: str | None
    zone: str | None
    until: str | None


@click.group(short_help="show and update the devices of an update server")
@context_option
def command() -> None:
    """Show and update the devices of an update server."""


for subcommand in (rollout, tag, context, bundle, request, requests, diagnostics, *TOKEN_COMMANDS):
    command.add_command(subcommand)


@command.command(short_help="remember an update server")
@click.argument("server", nargs=-1, required=True, metavar="[NAME] URL")
@click.option("--ca", type=LOCATION, required=True, metavar="FILE", help="Certificate of the server's authority.")
@click.option("--token", required=True, metavar="SECRET", help="Access token: file:PATH or env:NAME.")
def login(server: tuple[str, ...], ca: Path, token: str) -> None:
    """Remember the update server at URL as NAME, and use it from now on for the commands `fleet` and `publish`."""
    from osbuild.fleet.client import FleetClient
    from osbuild.fleet.contexts import DEFAULT, FleetContext, load_contexts, save_contexts
    from osbuild.fleet.server_trust import check_address, read_authority

    if len(server) > 2:
        raise UsageError(f"{len(server)} arguments, but at most 2 are expected", hint="write [NAME] URL")
    name, url = server if len(server) == 2 else (DEFAULT, server[0])
    check_address(url)
    new = FleetContext(url.rstrip("/"), read_authority(ca), resolve_option("--token", token))
    FleetClient(new).list_bundles()  # fails if the server does not accept it
    save_contexts(load_contexts().with_context(name, new))
    click.echo(f"logged in to {new.url} as {name}, which is the current update server")


@command.command(short_help="list devices")
@click.option("--watch", is_flag=True, help="Then print each device that has changed, until Ctrl+C.")
@click.option("--json", "as_json", is_flag=True, help="Print the devices as JSON.")
def devices(watch: bool, as_json: bool) -> None:
    """List the devices, with what each of them does."""
    client = connect()
    views = client.list_devices()
    if as_json:
        print_json(views)
    elif views:
        print_lines(align_columns([device_row(view) for view in views]))
    else:
        click.echo("no device is enrolled; `edge-osbuild fleet enrol-token` creates a token for one")
    while watch:
        time.sleep(WATCH)
        before, views = {visible_state(view) for view in views}, client.list_devices()
        changed = [view for view in views if visible_state(view) not in before]
        if changed and as_json:
            print_json(changed)
        elif changed:
            print_lines(align_columns([device_row(view) for view in changed]))


@command.command(short_help="show one device")
@click.argument("name", shell_complete=complete_devices)
@click.option("--json", "as_json", is_flag=True, help="Print the device as JSON.")
def device(name: str, as_json: bool) -> None:
    """Show the device NAME, its attributes and its actions."""
    view = connect().read_device(name)
    if as_json:
        print_json(view)
        return
    ended = "" if view.decommissioned is None else f": decommissioned on {format_time(view.decommissioned)}"
    print_lines([f"{view.name}{ended}"])
    print_lines(align_columns([(f"  {key}", value) for key, value in sorted(view.attributes.items())]))
    print_lines(align_columns([(f"  tag.{key}", value) for key, value in sorted(view.tags.items())]))
    for action in view.actions:
        print_lines([f"  action {action.id}: {action.bundle}, {action.state}"])
        print_lines(f"    {message}" for message in action.messages)


@command.command(short_help="tell a device to install a bundle")
@click.argument("name", shell_complete=complete_devices)
@click.argument("bundle", type=int, shell_complete=complete_bundles)
@click.option("--kind", type=click.Choice(["forced", "soft", "download-only"]), default="forced", show_default=True,
              help="Install at once, when it suits the device, or only write the other slot.")  # fmt: skip
@click.option("--confirm", is_flag=True, help="Ask for a confirmation on the device.")
@window_options
@as_object(UpdateOptions)
def update(options: UpdateOptions) -> None:
    """Tell the device NAME to install the bundle with the number BUNDLE."""
    from osbuild.fleet.management.messages import NewAction
    from osbuild.fleet.states import ActionKind

    maintenance = parse_maintenance(options.window, options.zone, options.until)
    order = NewAction(options.bundle, ActionKind(options.kind), options.confirm, maintenance)
    action = connect().create_action(options.name, order)
    print_lines([f"action {action.id}: {action.bundle}, {action.state}"])
    note_unsaid(int(action.unsaid))


@command.command(short_help="cancel what a device is told to install")
@click.argument("name", shell_complete=complete_devices)
@click.argument("action", type=int, required=False)
def cancel(name: str, action: int | None) -> None:
    """Cancel the action ACTION of the device NAME, by default the newest one."""
    client = connect()
    if action is None:
        view = client.read_device(name)
        if not view.actions:
            hint = f"`edge-osbuild fleet device {name}` shows what it is told"
            raise Error(f"the device {name} has no action", hint=hint)
        action = view.actions[0].id
    cancelled = client.cancel_action(name, action)
    print_lines([f"action {cancelled.id}: {cancelled.bundle}, {cancelled.state}"])


@command.command(short_help="accept a device no more")
@click.argument("name", shell_complete=complete_devices)
@click.option("--forbidden-name", is_flag=True, help="NAME may be one that new devices cannot have, such as `a/b`.")
def decommission(name: str, forbidden_name: bool) -> None:
    """Accept the device NAME no more. To enrol again, it needs a token that an admin has created for this NAME."""
    connect().decommission_device(name, forbidden=forbidden_name)
    again = f"; `edge-osbuild fleet enrol-token --device {name}` lets it enrol again"
    print_lines([f"decommissioned {name}{'' if forbidden_name else again}"])


@command.command(short_help="show who changed what")
@click.option("--json", "as_json", is_flag=True, help="Print the entries as JSON.")
@click.option(
    "--before", type=click.IntRange(min=1), metavar="N", help="Show the entries before the one with number N."
)
def audit(as_json: bool, before: int | None) -> None:
    """Show the newest entries of the audit log, with their numbers."""
    entries = connect().read_audit(before)
    if as_json:
        print_json(entries)
        return
    rows = [
        (str(entry.id), format_time(entry.time), entry.who, entry.address, entry.event, entry.subject,
         format_details(entry.details))
        for entry in entries
    ]  # fmt: skip
    print_lines(align_columns(rows))
    if entries and entries[-1].id > 1:
        log.note(f"`edge-osbuild fleet audit --before {entries[-1].id}` shows older entries, if there are any")


def format_details(details: Mapping[str, object]) -> str:
    """Return the details of an entry as one line."""
    from osbuild.fleet.audit_text import EMPTY, TIMES, format_detail

    shown = {
        name: format_time(value) if name in TIMES and isinstance(value, int) else format_detail(value)
        for name, value in details.items()
        if value not in EMPTY
    }
    return ", ".join(f"{name}: {value}" for name, value in shown.items())


def device_row(view: "DeviceView") -> tuple[str, ...]:
    """Return the columns of one device: name, version, health, when it was last seen, and its newest action."""
    name, version, health, action = visible_state(view)
    seen = "never seen" if view.last_seen is None else f"seen {format_time(view.last_seen)}"
    return (name, version, health, seen, action)


def visible_state(view: "DeviceView") -> tuple[str, str, str, str]:
    """Return what `--watch` compares: all of a device but the time at which it was last seen."""
    newest = view.actions[0] if view.actions else None
    action = f"{newest.bundle}: {newest.state}" if newest else ""
    return (view.name, view.attributes.get("version", "?"), view.attributes.get("health", "?"), action)
