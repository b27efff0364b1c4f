"""`edge-osbuild fleet rollout`: one bundle for many devices, in groups."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_completion import complete_bundles, complete_rollouts
from osbuild.cli.fleet_connection import connect, format_time, note_unsaid, print_json
from osbuild.cli.maintenance_options import parse_maintenance, parse_option, window_options
from osbuild.cli.options import as_object
from osbuild.cli.table import align_columns, print_lines
from osbuild.shared.counts import format_count
from osbuild.shared.errors import UsageError

if TYPE_CHECKING:
    from osbuild.fleet.maintenance import MaintenanceSchedule
    from osbuild.fleet.management.messages import GroupView, NewRollout, RolloutView

WATCH = 2.0  # seconds


@dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """The arguments and options of `edge-osbuild fleet rollout create`."""

    name: str
    bundle: int
    patterns: tuple[str, ...]
    groups: str
    success: int
    error: int
    pause: int
    kind: str | None
    soft: bool
    start: str | None
    deadline: str | None
    window: str | None
    zone: str | None
    until: str | None
    confirm: bool
    weight: int
    now: bool
    preview: bool
    as_json: bool


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="install a bundle on many devices, in groups")
def rollout() -> None:
    """Install a bundle on many devices, in groups: the next group begins when enough devices have succeeded."""


@rollout.command(short_help="create a rollout")
@click.argument("name")
@click.argument("bundle", type=int, shell_complete=complete_bundles)
@click.option("--select", "patterns", multiple=True, metavar="KEY=PATTERN",
              help="Only devices whose attribute KEY, or `name`, matches the PATTERN. May be repeated.")  # fmt: skip
@click.option("--groups", default="100", show_default=True, metavar="GROUP,…",
              help="The groups in their order. Each is a share such as 5%, a number of devices (count=20), a selection "
                   "(KEY=PATTERN+KEY=PATTERN), or, as the last one, the `rest`.")  # fmt: skip
@click.option("--success", type=click.IntRange(0, 100), default=100, show_default=True, metavar="PERCENT",
              help="The next group begins when this share of a group has succeeded.")  # fmt: skip
@click.option("--error", type=click.IntRange(1, 100), default=1, show_default=True, metavar="PERCENT",
              help="The rollout pauses when this share of a group has failed.")  # fmt: skip
@click.option("--pause", type=click.IntRange(0), default=0, show_default=True, metavar="SECONDS",
              help="Least time from the begin of a group to that of the next one.")  # fmt: skip
@click.option("--deadline", metavar="DURATION",
              help="Devices that report no end in this time, such as 2h, count as failed. Default: wait.")  # fmt: skip
@window_options
@click.option("--kind", type=click.Choice(["forced", "soft", "download-only"]),
              help="Install at once (default), when it suits the device, or only write the other slot.")  # fmt: skip
@click.option("--soft", is_flag=True, help="The same as --kind soft.")
@click.option("--confirm", is_flag=True, help="Ask for a confirmation on each device.")
@click.option("--weight", type=click.IntRange(0, 1000), default=1000, show_default=True,
              help="Of several rollouts for a device, the one of the highest weight is first.")  # fmt: skip
@click.option("--start", metavar="TIME", help="When it starts by itself, such as 2026-12-01T02:00+01:00.")
@click.option("--now", is_flag=True, help="Start at once. Without --start and --now, `fleet rollout start` does.")
@click.option("--preview", is_flag=True, help="Only show the devices that would be selected.")
@as_json_option
@as_object(RolloutOptions)
def create(options: RolloutOptions) -> None:
    """Create the rollout NAME of the bundle with the number BUNDLE."""
    order = parse_order(options)
    if not options.preview:
        created = connect().create_rollout(order)
        show_view(created, options.as_json)
        note_unsaid(created.unsaid)
        return
    view = connect().preview_rollout(order)
    note_unsaid(view.unsaid)
    if options.as_json:
        print_json(view)
    else:
        groups = "one group" if len(view.groups) == 1 else f"groups of {', '.join(map(str, view.groups))}"
        click.echo(f"{format_count(sum(view.groups), 'device')}, in {groups}")
        for number, (count, names) in enumerate(zip(view.groups, view.names, strict=True), 1):
            more = f" and {count - len(names)} more" if count > len(names) else ""
            print_lines([f"  group {number}: {', '.join(names)}{more}"])


@rollout.command("list", short_help="list rollouts")
@as_json_option
def list_all(as_json: bool) -> None:
    """List the rollouts, the newest first."""
    views = connect().list_rollouts()
    if as_json:
        print_json(views)
    elif views:
        print_lines(align_columns([(view.name, view.bundle, str(view.state), view.reason) for view in views]))
    else:
        click.echo("there is no rollout; `edge-osbuild fleet rollout create` creates one")


@rollout.command(short_help="show one rollout")
@click.argument("name", shell_complete=complete_rollouts)
@click.option("--watch", is_flag=True, help="Show it again and again until it ends or pauses.")
@as_json_option
def show(name: str, watch: bool, as_json: bool) -> None:
    """Show the rollout NAME with its groups."""
    client = connect()
    view = client.read_rollout(name)
    show_view(view, as_json)
    while watch and view.state in ("running", "scheduled"):
        time.sleep(WATCH)
        before, view = view, client.read_rollout(name)
        if view != before:
            show_view(view, as_json)


@rollout.command(short_help="start a rollout")
@click.argument("name", shell_complete=complete_rollouts)
@as_json_option
def start(name: str, as_json: bool) -> None:
    """Start the rollout NAME."""
    change(name, "start", as_json)


@rollout.command(short_help="start no further group for now")
@click.argument("name", shell_complete=complete_rollouts)
@as_json_option
def pause(name: str, as_json: bool) -> None:
    """Pause the rollout NAME: devices that have their orders go on, but no further group begins."""
    change(name, "pause", as_json)


@rollout.command(short_help="go on with a paused rollout")
@click.argument("name", shell_complete=complete_rollouts)
@click.option("--bundle", type=int, help="Number of another bundle, for all devices that have not succeeded yet.")
@click.option("--retry", is_flag=True, help="Let the devices that have failed try again.")
@as_json_option
def resume(name: str, bundle: int | None, retry: bool, as_json: bool) -> None:
    """Go on with the paused rollout NAME. What has failed until now does not count any more."""
    from osbuild.fleet.management.messages import ResumeOrder

    show_view(connect().change_rollout(name, "resume", ResumeOrder(bundle, retry)), as_json)


@rollout.command(short_help="end a rollout")
@click.argument("name", shell_complete=complete_rollouts)
@as_json_option
def abort(name: str, as_json: bool) -> None:
    """End the rollout NAME: what devices have not switched to yet is cancelled."""
    change(name, "abort", as_json)


def change(name: str, verb: str, as_json: bool) -> None:
    """Change the state of a rollout, and show it."""
    show_view(connect().change_rollout(name, verb), as_json)


def parse_order(options: RolloutOptions) -> "NewRollout":
    """Return the order of `fleet rollout create`. Raises `UsageError`."""
    from osbuild.fleet.management.messages import NewGroup, NewRollout
    from osbuild.fleet.rollout import plan_text
    from osbuild.fleet.rollout.plan import find_problem
    from osbuild.fleet.states import ActionKind

    kind = ActionKind(options.kind or ("soft" if options.soft else "forced"))
    if options.soft and kind is not ActionKind.soft:
        raise UsageError(f"--soft contradicts --kind {kind}", hint="give only one of them")
    if options.now and options.start is not None:
        raise UsageError("--now contradicts --start", hint="give only one of them")
    selection = parse_option("--select", plan_text.parse_selection, options.patterns)
    sizes = parse_option("--groups", plan_text.parse_groups, options.groups)
    start = None if options.start is None else parse_option("--start", plan_text.parse_time, options.start)
    deadline = None
    if options.deadline is not None:
        deadline = parse_option("--deadline", plan_text.parse_duration, options.deadline)
    maintenance = parse_maintenance(options.window, options.zone, options.until)
    groups = [
        NewGroup(size.percent, options.success, options.error, options.pause, size.count, size.selection, deadline)
        for size in sizes
    ]
    order = NewRollout(
        options.name, options.bundle, groups, selection, kind, options.weight, options.confirm, start, options.now,
        maintenance,
    )  # fmt: skip
    if problem := find_problem(order.plan()):
        fields = (("`deadline`", "--deadline"), ("`pause`", "--pause"), ("the name", "NAME"))
        option = next((option for field, option in fields if field in problem), "--groups")
        raise UsageError(f"{option}: {problem}")
    return order


def show_view(view: "RolloutView", as_json: bool) -> None:
    """Print a rollout."""
    if as_json:
        print_json(view)
        return
    print_lines([f"{view.name}: {view.bundle}, {describe_state(view)}" + (f": {view.reason}" if view.reason else "")])
    if view.maintenance is not None:
        print_lines([f"  maintenance windows: {describe_windows(view.maintenance)}"])
    print_lines(
        align_columns([(f"  group {number}", *group_row(group)) for number, group in enumerate(view.groups, 1)])
    )


def group_row(group: "GroupView") -> tuple[str, str, str, str]:
    """Return the columns of a group. The last one says what it waits for."""
    from osbuild.fleet.rollout.plan_text import format_duration

    waits = []
    if group.overdue and group.deadline is not None:
        waits.append(f"{group.overdue} without an end in {format_duration(group.deadline)}")
    if group.cancelled:
        waits.append(f"{group.cancelled} told to do something else")
    if group.forgiven:
        verb = "does" if group.forgiven == 1 else "do"
        waits.append(f"{group.forgiven} {verb} not count since the rollout was resumed")
    if group.pending:
        waits.append(f"{group.pending} {'has' if group.pending == 1 else 'have'} not reported an end")
    return (
        str(group.state), f"{group.succeeded} of {group.devices} succeeded", f"{group.failed} failed", ", ".join(waits)
    )  # fmt: skip


def describe_windows(maintenance: "MaintenanceSchedule") -> str:
    """Return maintenance windows with their time zone and end."""
    zone = maintenance.zone or "in the time zone of each device"
    end = "" if maintenance.until is None else f", until {format_time(maintenance.until)} UTC"
    return f"{maintenance.windows}, {zone}{end}"


def describe_state(view: "RolloutView") -> str:
    """Return the state of a rollout, with the time at which it starts."""
    if view.state == "scheduled" and view.start is not None:
        return f"{view.state} for {format_time(view.start)} UTC"
    return str(view.state)
