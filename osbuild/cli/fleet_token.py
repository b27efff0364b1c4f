"""Tokens in `edge-osbuild fleet`: access tokens of people, enrolment tokens and target tokens of devices."""

import time
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_completion import complete_devices, complete_tokens
from osbuild.cli.fleet_connection import connect, format_time, print_json
from osbuild.cli.table import align_columns, print_lines
from osbuild.shared.counts import format_count
from osbuild.shared.errors import UsageError

if TYPE_CHECKING:
    from osbuild.fleet.management.messages import AccessTokenView

HOUR = 3600


@click.command("enrol-token", short_help="create a token with which devices enrol")
@click.option("--uses", type=click.IntRange(min=1), default=1, show_default=True, help="How many devices may use it.")
@click.option("--expires", type=click.IntRange(min=1), default=24, show_default=True, metavar="HOURS",
              help="How long it is valid.")  # fmt: skip
@click.option("--note", default="", help="What it is for.")
@click.option("--device", metavar="NAME", shell_complete=complete_devices,
              help="The only device that may use it, also if it has enrolled before.")  # fmt: skip
def enrol_token(uses: int, expires: int, note: str, device: str | None) -> None:
    """Create a token with which devices enrol, and print it."""
    from osbuild.fleet.management.messages import NewEnrolmentToken

    click.echo(connect().create_enrolment_token(NewEnrolmentToken(uses, expires * HOUR, note, device)))


@click.command("enrol-tokens", short_help="list the enrolment tokens")
@click.option("--json", "as_json", is_flag=True, help="Print the tokens as JSON.")
def enrol_tokens(as_json: bool) -> None:
    """List the enrolment tokens, with their numbers but without their secrets."""
    views = connect().list_enrolment_tokens()
    if as_json:
        print_json(views)
        return
    rows = [
        (str(view.id), f"{format_count(view.uses_left, 'use')} left", f"until {format_time(view.expires)}",
         "revoked" if view.revoked else "", f"only for {view.device}" if view.device else "", view.note)
        for view in views
    ]  # fmt: skip
    print_lines(align_columns(rows))


@click.command("revoke-enrol-token", short_help="revoke an enrolment token")
@click.argument("number", type=int)
def revoke_enrol_token(number: int) -> None:
    """Revoke the enrolment token with the NUMBER that `enrol-tokens` shows.

    Devices that have enrolled with it are still accepted.
    """
    connect().revoke_enrolment_token(number)
    click.echo(f"revoked the enrolment token {number}")


@click.command("target-token", short_help="create the token of a device that does not enrol")
@click.argument("name", shell_complete=complete_devices)
def target_token(name: str) -> None:
    """Create the target token of the device NAME, such as one with rauc-hawkbit-updater, and print it.

    The device is registered if it is unknown. An older target token of it is not accepted any more.
    """
    click.echo(connect().create_target_token(name))


@click.command(short_help="list the access tokens")
@click.option("--json", "as_json", is_flag=True, help="Print the tokens as JSON.")
def tokens(as_json: bool) -> None:
    """List the access tokens of people and scripts."""
    views = connect().list_access_tokens()
    if as_json:
        print_json(views)
        return
    rows = [
        (view.name, view.role, f"until {format_time(view.expires)}", "revoked" if view.revoked else "")
        for view in views
    ]
    print_lines(align_columns(rows))


@click.command(short_help="create an access token")
@click.argument("name")
@click.option("--role", type=click.Choice(["viewer", "operator", "admin"]), required=True, help="What it allows.")
@click.option("--expires", type=click.IntRange(min=1, max=3650), default=90, show_default=True, metavar="DAYS",
              help="How long it is valid.")  # fmt: skip
def token(name: str, role: str, expires: int) -> None:
    """Create an access token for a person or a script, and print it."""
    from osbuild.fleet.management.messages import NewAccessToken

    click.echo(connect().create_access_token(NewAccessToken(name, role, expires * 24 * HOUR)))


@click.command(short_help="revoke an access token")
@click.argument("name", shell_complete=complete_tokens)
@click.option("--yes", is_flag=True, help="Needed for the last valid token of an administrator.")
def revoke(name: str, yes: bool) -> None:
    """Revoke the access token NAME."""
    client = connect()
    if not yes and is_last_admin(client.list_access_tokens(), name):
        hint = "add --yes; then only `edge-osbuild serve --new-admin-token` on the server creates another one"
        raise UsageError(f"{name} is the last valid token of an administrator", hint=hint)
    client.revoke_access_token(name)
    click.echo(f"revoked the access token {name}")


def is_last_admin(views: "list[AccessTokenView]", name: str) -> bool:
    """Whether no administrator has a valid token without the token `name`, which is one."""
    now = time.time() * 1000
    valid = [view.name for view in views if view.role == "admin" and view.revoked is None and view.expires > now]
    return valid == [name]


TOKEN_COMMANDS = (enrol_token, enrol_tokens, revoke_enrol_token, target_token, token, tokens, revoke)
