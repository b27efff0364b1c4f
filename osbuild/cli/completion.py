"""`edge-osbuild completion`: shell completion, by click's own support for it."""

import click
from click.shell_completion import get_completion_class

from osbuild.cli import cli


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: eval "$(edge-osbuild completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "edge-osbuild", "_EDGE_OSBUILD_COMPLETE").source())
