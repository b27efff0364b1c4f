"""`edge-osbuild fleet tag`: what people say about a device."""

import click

from osbuild.cli.fleet_connection import connect
from osbuild.cli.table import align_columns, print_lines
from osbuild.shared.errors import UsageError


@click.command(short_help="set tags of a device")
@click.argument("name")
@click.argument("tags", nargs=-1, required=True, metavar="KEY=VALUE…")
def tag(name: str, tags: tuple[str, ...]) -> None:
    """Set tags of the device NAME, for selections such as tag.site=berlin. KEY= without a value removes a tag."""
    from osbuild.fleet.management.messages import NewTags

    changes: dict[str, str | None] = {}
    for text in tags:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"this is not a tag: {text}", hint="write KEY=VALUE, or KEY= to remove it")
        changes[key] = value or None
    view = connect().change_tags(name, NewTags(changes))
    print_lines([view.name])
    print_lines(align_columns([(f"  tag.{key}", value) for key, value in sorted(view.tags.items())]))
