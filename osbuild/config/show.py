"""Prints a profile as YAML that can be read again, with the origin of each value as a comment."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
import yaml

from osbuild.config.key_table import Kind, Shape, keys_of, to_json
from osbuild.config.load import DEFAULT, LoadedProfile
from osbuild.shared.quoting import escaped

WIDEST = 72  # comments are not moved further to the right than this


def render_profile(loaded: LoadedProfile) -> str:
    """Return the merged profile, with colours that `click.echo` removes unless it prints to a terminal."""
    lines = list(_block(loaded.profile, "", "", loaded.origins))
    column = min(max((len(text) for text, _ in lines), default=0), WIDEST)
    return "\n".join(_line(text, origin, column) for text, origin in lines)


def _line(text: str, origin: str | None, column: int) -> str:
    if origin is None:
        return text
    return f"{text.ljust(column)}  " + click.style(
        f"# {escaped(origin)}", fg=None if origin == DEFAULT else "cyan", dim=True
    )


Lines = Iterator[tuple[str, str | None]]


@dataclass(frozen=True)
class _EntryPosition:
    """Where an entry is: its dotted path, and its indentation in the output. `origins` are those of all paths."""

    path: str
    indent: str
    origins: Mapping[str, str]

    @property
    def origin(self) -> str | None:
        return self.origins.get(self.path)

    def inside(self, name: str) -> "_EntryPosition":
        return replace(self, path=f"{self.path}.{name}", indent=self.indent + "  ")


def _block(block: Any, prefix: str, indent: str, origins: Mapping[str, str]) -> Lines:
    for key in keys_of(type(block)).values():
        yield from _entry(
            key.name, getattr(block, key.name), key.shape, _EntryPosition(prefix + key.name, indent, origins)
        )


def _entry(name: str, value: Any, shape: Shape, position: _EntryPosition) -> Lines:
    path, indent, origins, origin = position.path, position.indent, position.origins, position.origin
    if shape.kind is Kind.BLOCK:
        yield f"{indent}{name}:", None
        yield from _block(value, f"{path}.", indent + "  ", origins)
    elif isinstance(value, tuple) and value and shape.item:
        yield f"{indent}{name}:", origin
        for number, item in enumerate(value):
            inner_path = f"{path}[{number}]"
            inherited = {**origins, inner_path: origins.get(inner_path) or origin or DEFAULT}
            yield from _item(item, shape.item, replace(position, path=inner_path, origins=inherited))
    elif isinstance(value, dict) and value:
        yield f"{indent}{name}:", origin
        inner = shape.item or Shape(Kind.ANY)
        for key, entry in value.items():
            inside = position.inside(key)
            inherited = {**origins, inside.path: inside.origin or origin or DEFAULT}
            yield from _entry(_scalar(key), entry, inner, replace(inside, origins=inherited))
    else:
        yield f"{indent}{name}: {_scalar(to_json(value))}", origin


def _item(item: Any, shape: Shape, position: _EntryPosition) -> Lines:
    indent = position.indent
    if shape.kind is not Kind.BLOCK:
        yield f"{indent}- {_scalar(to_json(item))}", position.origin
        return
    lines = _block(item, f"{position.path}.", indent + "  ", position.origins)
    first, origin = next(lines)
    yield f"{indent}- {first.removeprefix(indent + '  ')}", origin
    yield from lines


def _scalar(value: Any) -> str:
    """Return one value as one line of YAML."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=2**31, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
