"""`edge-osbuild new`: write a profile to start from."""

from pathlib import Path

import click

from osbuild import output
from osbuild.profile.example import example


@click.command()
@click.argument("name")
def command(name: str) -> None:
    """Write the profile NAME.yaml into the current folder: every setting as a comment, with what it is for."""
    path = Path(f"{name}.yaml")
    output.write_new(path, example(name).encode())
    click.echo(f"{path}: a node like `edge-server`, with every setting as a comment")
    click.echo(f"next: edge-osbuild build {path}")
