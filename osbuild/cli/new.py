"""`edge-osbuild new`: write a profile to start from."""

from pathlib import Path

import click

from osbuild.config.example import render_example
from osbuild.host import output


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Write the profile NAME.yaml into the current folder: every setting as a comment, with what it is for."""
    path = Path(f"{name}.yaml")
    output.write_new(path, render_example(name).encode())
    click.echo(f"{path}: a node like `edge-server`, with every setting as a comment")
    click.echo(f"next: edge-osbuild build {path}")
