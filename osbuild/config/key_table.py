"""The table of keys (profile.py, board.py) as data: the type of each key. Parser, schema and documentation read it."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from osbuild.config.metadata import SecretRef, Size
from osbuild.config.profile import Profile
from osbuild.host.architecture import Architecture

# What a string may hold when the table gives no pattern: one line, without control characters.
LINE = r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
SIZE = r"^[1-9][0-9]{0,6} ?(MiB|GiB)$"
INTEGERS = (-(2**63), 2**64 - 1)

INHERIT = "extends"
INHERIT_HELP = (
    "profiles to inherit from, in order: names of profiles beside this one or shipped, or paths relative to this "
    "file; mappings are merged, other values replace what was inherited, and `KEY+` appends to an inherited list"
)


class Kind(Enum):
    """The kind of a value."""

    BLOCK = "block"  # a mapping with known keys
    LIST = "list"
    MAP = "map"  # a mapping with names of the user's choice
    LEAF = "leaf"
    ANY = "any"


@dataclass(frozen=True)
class Shape:
    """`types` are those of a leaf, or the one dataclass of a block; `item` is the shape of a list's or map's items."""

    kind: Kind
    types: tuple[type, ...] = ()
    item: "Shape | None" = None


@dataclass(frozen=True)
class Key:
    """One key of one block; `limits` is the field's metadata."""

    name: str
    shape: Shape
    limits: Mapping[str, Any]
    default: Any
    required: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed values of a string; empty if any value is allowed."""
        if Architecture in self.shape.types:
            return tuple(Architecture)
        return tuple(self.limits.get("choices", ()))


def describe_type(annotation: Any) -> Shape:
    """Describe a type annotation of the table."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        return Shape(Kind.LEAF, tuple(member for member in inner if member is not types.NoneType))
    if origin is tuple:
        return Shape(Kind.LIST, item=describe_type(inner[0]))
    if origin is dict:
        return Shape(Kind.MAP, item=describe_type(inner[1]))
    if annotation is Any:
        return Shape(Kind.ANY)
    if dataclasses.is_dataclass(annotation):
        return Shape(Kind.BLOCK, (typing.cast(type, annotation),))
    return Shape(Kind.LEAF, (annotation,))


def keys_of(block: Any) -> Mapping[str, Key]:
    """Return the keys of one dataclass of the table, in order."""
    return _keys(block)


@cache
def _keys(block: Any) -> Mapping[str, Key]:
    annotations = typing.get_type_hints(block)
    table = {}
    for field in dataclasses.fields(block):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        required = default is dataclasses.MISSING
        shape = describe_type(annotations[field.name])
        table[field.name] = Key(field.name, shape, field.metadata, None if required else default, required)
    return table


def every_key(block: type = Profile, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Yield every key of the table as (dotted name, key); keys of items of a list are written `users[].name`."""
    for key in keys_of(block).values():
        yield prefix + key.name, key
        if key.shape.kind is Kind.BLOCK:
            yield from every_key(key.shape.types[0], f"{prefix}{key.name}.")
        elif key.shape.item and key.shape.item.kind is Kind.BLOCK:
            yield from every_key(key.shape.item.types[0], f"{prefix}{key.name}[].")


def format_size(size: int) -> str:
    """Format a size in bytes as in a profile."""
    mebi, remainder = divmod(size, 2**20)
    assert not remainder, "sizes are whole MiB"
    return f"{mebi // 1024} GiB" if mebi % 1024 == 0 else f"{mebi} MiB"


def to_json(value: Any) -> Any:
    """Convert a value of the table to JSON values: sizes to text, tuples to lists, dataclasses to mappings."""
    if isinstance(value, Size):
        return format_size(value)
    if isinstance(value, SecretRef | Architecture):
        return str(value)
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {name: to_json(item) for name, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value
