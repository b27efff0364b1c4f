"""Prints a profile as YAML that can be read again, with the origin of each value as a comment."""

from collections.abc import Iterator, Mapping
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


def _block(block: Any, indent: str, path: str, origins: Mapping[str, str]) -> Lines:
    for key in keys_of(type(block)).values():
        value = getattr(block, key.name)
        yield from _entry(key.name, value, key.shape, indent, f"{path}{key.name}", origins)


def _entry(name: str, value: Any, shape: Shape, indent: str, path: str, origins: Mapping[str, str]) -> Lines:
    origin = origins.get(path)
    if shape.kind is Kind.BLOCK:
        yield f"{indent}{name}:", None
        yield from _block(value, indent + "  ", f"{path}.", origins)
    elif isinstance(value, tuple) and value and shape.item:
        yield f"{indent}{name}:", origin
        for number, item in enumerate(value):
            yield from _item(item, shape.item, indent, f"{path}[{number}]", origins)
    elif isinstance(value, dict) and value:
        yield f"{indent}{name}:", origin
        inner = shape.item or Shape(Kind.ANY)
        for key, entry in value.items():
            where = {**origins, f"{path}.{key}": origins.get(f"{path}.{key}", origin or DEFAULT)}
            yield from _entry(_scalar(key), entry, inner, indent + "  ", f"{path}.{key}", where)
    else:
        yield f"{indent}{name}: {_scalar(to_json(value))}", origin


def _item(item: Any, shape: Shape, indent: str, path: str, origins: Mapping[str, str]) -> Lines:
    if shape.kind is not Kind.BLOCK:
        yield f"{indent}- {_scalar(to_json(item))}", origins.get(path)
        return
    lines = _block(item, indent + "  ", f"{path}.", origins)
    first, origin = next(lines)
    yield f"{indent}- {first.removeprefix(indent + '  ')}", origin
    yield from lines


def _scalar(value: Any) -> str:
    """Return one value as one line of YAML."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=2**31, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
