"""The table of keys (model.py) as data: what may stand in each place. Parser, schema and documentation read this."""

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
REFERENCE = r"^(file:[^\u0000-\u001f\u007f-\u009f\u2028\u2029]+|env:[A-Za-z_][A-Za-z0-9_]*)$"
INTEGERS = (-(2**63), 2**64 - 1)

INHERIT = "extends"
INHERIT_HELP = (
    "profiles to inherit from, in order: names of profiles beside this one or shipped, or paths relative to this "
    "file; mappings are merged, other values replace what was inherited, and `KEY+` appends to an inherited list"
)


class Kind(Enum):
    """What a value is made of."""

    BLOCK = "block"  # a mapping with known keys
    LIST = "list"
    MAP = "map"  # a mapping with names of the user's choice
    LEAF = "leaf"
    ANY = "any"


@dataclass(frozen=True)
class Shape:
    """`types` are those of a leaf, or the one dataclass of a block; `item` is what a list or map holds."""

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
        """The only values of a string, or none where it is free."""
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
    """The keys of one dataclass of the table, in order."""
    return _keys(block)


@cache
def _keys(block: Any) -> Mapping[str, Key]:
    annotations = typing.get_type_hints(block)
    table = {}
    for field in dataclasses.fields(block):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        required = default is dataclasses.MISSING
        found = describe_type(annotations[field.name])
        table[field.name] = Key(field.name, found, field.metadata, None if required else default, required)
    return table


def every_key(block: type = Profile, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Every key of the table as (dotted name, key); the keys of a list's items are `users[].name`."""
    for key in keys_of(block).values():
        yield prefix + key.name, key
        if key.shape.kind is Kind.BLOCK:
            yield from every_key(key.shape.types[0], f"{prefix}{key.name}.")
        elif key.shape.item and key.shape.item.kind is Kind.BLOCK:
            yield from every_key(key.shape.item.types[0], f"{prefix}{key.name}[].")


def format_size(size: int) -> str:
    """A size in bytes as a profile writes it."""
    mebi, rest = divmod(size, 2**20)
    assert not rest, "sizes are whole MiB"
    return f"{mebi // 1024} GiB" if mebi % 1024 == 0 else f"{mebi} MiB"


def to_json(value: Any) -> Any:
    """A value of the table as JSON has it: sizes as text, tuples as lists, dataclasses as mappings."""
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
