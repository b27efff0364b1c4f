"""Options of maintenance windows, for a rollout and for one device."""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from osbuild.shared.errors import UsageError
from osbuild.shared.maintenance_window import parse_windows

if TYPE_CHECKING:
    from osbuild.fleet.management.messages import MaintenanceTimes

T = TypeVar("T")
R = TypeVar("R")
Command = TypeVar("Command", bound=Callable[..., object])


def window_options(command: Command) -> Command:
    """Give a command the options --window, --zone and --until."""
    text = "Install only in maintenance windows, such as 'Mon-Fri 01:00-04:00; Sun 22:00-06:00'."
    until = "When the last window ends. Devices that have not begun are cancelled."
    for option in (
        click.option("--until", metavar="TIME", help=until),
        click.option("--zone", metavar="ZONE", help="Time zone of the windows. Default: that of each device."),
        click.option("--window", metavar="TIMES", help=text),
    ):
        command = option(command)
    return command


def parse_maintenance(window: str | None, zone: str | None, until: str | None) -> "MaintenanceTimes | None":
    """Return the maintenance windows of these options. Raises `UsageError`."""
    from osbuild.fleet.management.messages import MaintenanceTimes
    from osbuild.fleet.rollout.plan_text import parse_time

    if window is None:
        for name, value in (("--zone", zone), ("--until", until)):
            if value is not None:
                raise UsageError(f"{name} has no effect without --window", hint="add --window, or leave it out")
        return None
    parse_option("--window", parse_windows, window)
    return MaintenanceTimes(window, zone, None if until is None else parse_option("--until", parse_time, until))


def parse_option(option: str, parse: Callable[[T], R], text: T) -> R:
    """Return the value of an option. Raises `UsageError`, which names the option."""
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
