"""`edge-osbuild fleet rollout`: one bundle for many devices, in groups."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from osbuild.cli.options import as_object
from osbuild.cli.table import align_columns, print_lines
from osbuild.shared.errors import UsageError

if TYPE_CHECKING:
    from osbuild.fleet.management.messages import NewRollout, RolloutView

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
    soft: bool
    confirm: bool
    now: bool
    preview: bool
    as_json: bool


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="install a bundle on many devices, in groups")
def rollout() -> None:
    """Install a bundle on many devices, in groups: the next group begins when enough devices have succeeded."""


@rollout.command(short_help="create a rollout")
@click.argument("name")
@click.argument("bundle", type=int)
@click.option("--select", "patterns", multiple=True, metavar="KEY=PATTERN",
              help="Only devices whose attribute KEY, or `name`, matches the PATTERN. May be repeated.")  # fmt: skip
@click.option(
    "--groups", default="100", show_default=True, metavar="PERCENT,…", help="Shares of the groups in percent."
)
@click.option("--success", type=click.IntRange(0, 100), default=100, show_default=True, metavar="PERCENT",
              help="The next group begins when this share of a group has succeeded.")  # fmt: skip
@click.option("--error", type=click.IntRange(1, 100), default=1, show_default=True, metavar="PERCENT",
              help="The rollout pauses when this share of a group has failed.")  # fmt: skip
@click.option("--pause", type=click.IntRange(0), default=0, show_default=True, metavar="SECONDS",
              help="Least time from the begin of a group to that of the next one.")  # fmt: skip
@click.option("--soft", is_flag=True, help="Let each device install when it suits it.")
@click.option("--confirm", is_flag=True, help="Ask for a confirmation on each device.")
@click.option("--now", is_flag=True, help="Start at once. Otherwise `fleet rollout start` does.")
@click.option("--preview", is_flag=True, help="Only show the devices that would be selected.")
@as_json_option
@as_object(RolloutOptions)
def create(options: RolloutOptions) -> None:
    """Create the rollout NAME of the bundle with the number BUNDLE."""
    from osbuild.cli.fleet import connect, print_json

    order = parse_order(options)
    if not options.preview:
        show_view(connect().create_rollout(order), options.as_json)
        return
    view = connect().preview_rollout(order)
    if options.as_json:
        print_json(view)
    else:
        click.echo(f"{sum(view.groups)} devices, in groups of {', '.join(map(str, view.groups))}")
        print_lines(f"  {device}" for device in view.first)


@rollout.command("list", short_help="list rollouts")
@as_json_option
def list_all(as_json: bool) -> None:
    """List the rollouts, the newest first."""
    from osbuild.cli.fleet import connect, print_json

    views = connect().list_rollouts()
    if as_json:
        print_json(views)
    elif views:
        print_lines(align_columns([(view.name, view.bundle, str(view.state), view.reason) for view in views]))
    else:
        click.echo("there is no rollout; `edge-osbuild fleet rollout create` creates one")


@rollout.command(short_help="show one rollout")
@click.argument("name")
@click.option("--watch", is_flag=True, help="Show it again and again until it ends or pauses.")
@as_json_option
def show(name: str, watch: bool, as_json: bool) -> None:
    """Show the rollout NAME with its groups."""
    from osbuild.cli.fleet import connect

    client = connect()
    view = client.read_rollout(name)
    show_view(view, as_json)
    while watch and view.state in ("running", "scheduled"):
        time.sleep(WATCH)
        before, view = view, client.read_rollout(name)
        if view != before:
            show_view(view, as_json)


@rollout.command(short_help="start a rollout")
@click.argument("name")
@as_json_option
def start(name: str, as_json: bool) -> None:
    """Start the rollout NAME."""
    change(name, "start", as_json)


@rollout.command(short_help="start no further group for now")
@click.argument("name")
@as_json_option
def pause(name: str, as_json: bool) -> None:
    """Pause the rollout NAME: devices that have their orders go on, but no further group begins."""
    change(name, "pause", as_json)


@rollout.command(short_help="go on with a paused rollout")
@click.argument("name")
@click.option("--bundle", type=int, help="Number of another bundle, for all devices that have not succeeded yet.")
@click.option("--retry", is_flag=True, help="Let the devices that have failed try again.")
@as_json_option
def resume(name: str, bundle: int | None, retry: bool, as_json: bool) -> None:
    """Go on with the paused rollout NAME. What has failed until now does not count any more."""
    from osbuild.cli.fleet import connect
    from osbuild.fleet.management.messages import ResumeOrder

    show_view(connect().change_rollout(name, "resume", ResumeOrder(bundle, retry)), as_json)


@rollout.command(short_help="end a rollout")
@click.argument("name")
@as_json_option
def abort(name: str, as_json: bool) -> None:
    """End the rollout NAME: what devices have not switched to yet is cancelled."""
    change(name, "abort", as_json)


def change(name: str, verb: str, as_json: bool) -> None:
    """Change the state of a rollout, and show it."""
    from osbuild.cli.fleet import connect

    show_view(connect().change_rollout(name, verb), as_json)


def parse_order(options: RolloutOptions) -> "NewRollout":
    """Return the order of `fleet rollout create`. Raises `UsageError`."""
    from osbuild.fleet.management.messages import NewGroup, NewRollout
    from osbuild.fleet.states import ActionKind

    selection = {}
    for text in options.patterns:
        key, equals, pattern = text.partition("=")
        if not key or not equals or not pattern:
            raise UsageError(f"this selects nothing: {text}", hint="write KEY=PATTERN, such as version=1.0.*")
        selection[key] = pattern
    try:
        shares = [float(part) for part in options.groups.split(",")]
    except ValueError as error:
        hint = "write numbers such as 10,40,50"
        raise UsageError(f"these are not percentages: {options.groups}", hint=hint) from error
    groups = [NewGroup(share, options.success, options.error, options.pause) for share in shares]
    kind = ActionKind.soft if options.soft else ActionKind.forced
    return NewRollout(options.name, options.bundle, groups, selection, kind, confirm=options.confirm, now=options.now)


def show_view(view: "RolloutView", as_json: bool) -> None:
    """Print a rollout."""
    from osbuild.cli.fleet import print_json

    if as_json:
        print_json(view)
        return
    click.echo(f"{view.name}: {view.bundle}, {view.state}" + (f": {view.reason}" if view.reason else ""))
    rows = [
        (
            f"  group {number}",
            str(group.state),
            f"{group.succeeded} of {group.devices} succeeded",
            f"{group.failed} failed",
        )
        for number, group in enumerate(view.groups, 1)
    ]
    print_lines(align_columns(rows))
