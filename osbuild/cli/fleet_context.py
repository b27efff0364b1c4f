"""`edge-osbuild fleet context`, and which update server a command uses."""

import os
from typing import TYPE_CHECKING

import click

from osbuild.cli.fleet_completion import CONTEXT, ENVIRONMENT, complete_contexts
from osbuild.cli.table import align_columns, print_lines

if TYPE_CHECKING:
    from osbuild.fleet.contexts import FleetContext


def note_choice(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    """Remember the name of a context for the command and those below it."""
    if value:
        ctx.meta[CONTEXT] = value


context_option = click.option(
    "--context", envvar=ENVIRONMENT, show_envvar=True, metavar="NAME", expose_value=False, callback=note_choice,
    shell_complete=complete_contexts,
    help="Name of the update server, see `fleet context list`. Default: the current one.",
)  # fmt: skip


def chosen_context() -> "FleetContext":
    """Return the update server that the command uses. Raises `Error`."""
    from osbuild.fleet.contexts import load_contexts

    chosen = click.get_current_context().meta.get(CONTEXT)
    return load_contexts().find_context(chosen or os.environ.get(ENVIRONMENT))


@click.group(short_help="show and choose the update servers that you have logged in to")
def context() -> None:
    """Show and choose the update servers that you have logged in to with `fleet login`."""


@context.command("list", short_help="list the update servers")
def list_all() -> None:
    """List the update servers. The current one has a star."""
    from osbuild.fleet.contexts import load_contexts

    stored = load_contexts()
    rows = [
        ("*" if name == stored.current else "", name, stored.contexts[name].url) for name in sorted(stored.contexts)
    ]
    print_lines(align_columns(rows))


@context.command(short_help="use another update server from now on")
@click.argument("name", shell_complete=complete_contexts)
def use(name: str) -> None:
    """Use the update server NAME from now on."""
    from osbuild.fleet.contexts import load_contexts, save_contexts

    save_contexts(load_contexts().with_current(name))
    click.echo(f"{name} is the current update server now")


@context.command(short_help="forget an update server")
@click.argument("name", shell_complete=complete_contexts)
def remove(name: str) -> None:
    """Forget the update server NAME and its access token. The token stays valid: revoke it with `fleet revoke`."""
    from osbuild.fleet.contexts import load_contexts, save_contexts

    before = load_contexts()
    after = before.without_context(name)
    save_contexts(after)
    hint = ": no update server is the current one now" if before.current and not after.current else ""
    click.echo(f"forgot {name}{hint}")
