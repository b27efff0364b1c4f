"""`edge-osbuild profile`: show, check and describe profiles."""

import json

import click

from osbuild import board as boards
from osbuild import log, paths
from osbuild.arch import Architecture
from osbuild.errors import Error
from osbuild.kubernetes import containers
from osbuild.profile import load as loading
from osbuild.profile.keys import plain
from osbuild.profile.schema import schema as make_schema
from osbuild.profile.show import show as render

architecture = click.option(
    "--arch",
    type=click.Choice([str(name) for name in Architecture]),
    help="Architecture to use instead of the profile's.",
)


@click.group(help="Show, check and describe profiles.")
def command() -> None:
    pass


@command.command(help="Print the JSON Schema of a profile.")
def schema() -> None:
    click.echo(json.dumps(make_schema(), indent=2))


@command.command(help="Print the merged PROFILE, a shipped name or a file, with the origin of each value.")
@click.argument("profile")
@architecture
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(profile: str, arch: str | None, as_json: bool) -> None:
    loaded = loading.load(loading.find(profile), architecture=Architecture(arch) if arch else None)
    if not as_json:
        click.echo(render(loaded))
        return
    files = [paths.display(path) for path in loaded.files]
    click.echo(
        json.dumps({"profile": plain(loaded.profile), "origins": dict(loaded.origins), "files": files}, indent=2)
    )


@command.command(help="Check each PROFILE, a shipped name or a file, and print what is wrong with it.")
@click.argument("profile", nargs=-1, required=True)
@architecture
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(profile: tuple[str, ...], arch: str | None, as_json: bool) -> None:
    results = []
    files = [(name, loading.find(name)) for name in profile]
    for name, path in files:
        try:
            loaded = loading.load(path, architecture=Architecture(arch) if arch else None)
            found = loaded.profile
            check_inputs(loaded)
        except Error as error:
            results.append(
                {"profile": name, "ok": False, "error": error.message, "where": error.where, "hint": error.hint}
            )
            if not as_json:
                log.error(error)
        else:
            results.append({"profile": name, "ok": True})
            if not as_json:
                click.echo(f"{paths.display(path)}: {found.name} {found.version} for {found.architecture} is valid")
    if as_json:
        click.echo(json.dumps(results, indent=2))
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(1)


def check_inputs(loaded: loading.Loaded) -> None:
    """Look into what a build reads only later: the board, and the archives of container images. Raises `Error`."""
    place = "board"
    try:
        board = boards.of(loaded)
        architecture = board.architecture if loaded.profile.board else loaded.profile.architecture
        for number, name in enumerate(loaded.profile.kubernetes.images):
            place = f"kubernetes.images[{number}]"
            if name != "demo":
                containers.inspect(paths.named(name, loaded.folder), architecture)
    except Error as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        raise Error(message, where=loaded.origins.get(place), hint=error.hint) from error
