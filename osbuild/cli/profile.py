"""`edge-osbuild profile`: show and check profiles, and print their JSON Schema."""

import json

import click

from osbuild.cli.profile_name import PROFILE
from osbuild.cli.table import print_lines
from osbuild.config import board as boards
from osbuild.config import load as loading
from osbuild.config.json_schema import make_schema
from osbuild.config.key_table import to_json
from osbuild.config.show import render_profile as render
from osbuild.host import log, paths
from osbuild.host.architecture import Architecture
from osbuild.kubernetes import image_archive
from osbuild.shared.errors import Error

architecture = click.option(
    "--arch",
    type=click.Choice([str(name) for name in Architecture]),
    help="Architecture to use instead of the profile's.",
)


@click.group(help="Show and check profiles, and print their JSON Schema.")
def command() -> None:
    pass


@command.command(short_help="print the JSON Schema of a profile", help="Print the JSON Schema of a profile.")
def schema() -> None:
    click.echo(json.dumps(make_schema(), indent=2))


@command.command(
    short_help="print a merged profile and the origin of each value",
    help="Print the merged PROFILE, a shipped name or a file, with the origin of each value.",
)
@click.argument("profile", type=PROFILE)
@architecture
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def show(profile: str, arch: str | None, as_json: bool) -> None:
    loaded = loading.load_profile(loading.find_profile(profile), architecture=Architecture(arch) if arch else None)
    if not as_json:
        click.echo(render(loaded))
        return
    files = [paths.display_path(path) for path in loaded.files]
    click.echo(
        json.dumps({"profile": to_json(loaded.profile), "origins": dict(loaded.origins), "files": files}, indent=2)
    )


@command.command(
    short_help="check profiles, and print their mistakes",
    help="Check each PROFILE, a shipped name or a file, and print its mistakes.",
)
@click.argument("profile", type=PROFILE, nargs=-1, required=True)
@architecture
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check(profile: tuple[str, ...], arch: str | None, as_json: bool) -> None:
    results = []
    files = [(name, loading.find_profile(name)) for name in profile]
    for name, path in files:
        try:
            loaded = loading.load_profile(path, architecture=Architecture(arch) if arch else None)
            valid = loaded.profile
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
                print_lines(
                    [f"{paths.display_path(path)}: {valid.name} {valid.version} for {valid.architecture} is valid"]
                )
    if as_json:
        click.echo(json.dumps(results, indent=2))
    if not all(result["ok"] for result in results):
        raise click.exceptions.Exit(1)


def check_inputs(loaded: loading.LoadedProfile) -> None:
    """Check inputs that a build reads later: the board, and the archives of container images. Raises `Error`."""
    key = "board"
    try:
        board = boards.board_of(loaded)
        architecture = board.architecture if loaded.profile.board else loaded.profile.architecture
        for number, name in enumerate(loaded.profile.kubernetes.images):
            key = f"kubernetes.images[{number}]"
            if name != "demo":
                image_archive.inspect_archive(paths.resolve_named(name, loaded.folder), architecture)
    except Error as error:
        message = f"{error.where}: {error.message}" if error.where else error.message
        raise Error(message, where=loaded.origins.get(key), hint=error.hint) from error
