"""Frozen dataclasses as JSON objects, with checked types.

A field without a default is required. A field `extra` keeps unknown keys, which a later version may have written, so
that they are written again. The metadata `key` of a field is its key in JSON if that is not the field's name.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

EXTRA = "extra"
LARGEST = 2**63  # the largest number that a record may have
NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def parse_record(kind: type[T], value: object, name: str = "") -> T:
    """Parse the object `value` as the dataclass `kind`. Raises `ValueError` with the path of the key below `name`."""
    if not isinstance(value, dict):
        raise ValueError(f"{f'`{name}` is ' if name else ''}not a mapping")
    hints = _field_types(cast(Any, kind))
    known: dict[str, Any] = {}
    keys = {field.name: _stored_key(field) for field in fields(cast(Any, kind))}
    for field in fields(cast(Any, kind)):
        key = keys[field.name]
        path = f"{name}.{key}" if name else key
        if field.name == EXTRA:
            continue
        if key in value:
            known[field.name] = _parse_value(hints[field.name], value[key], path)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"`{path}` is missing")
    if EXTRA in hints:
        known[EXTRA] = {key: inner for key, inner in value.items() if key not in keys.values() or key == EXTRA}
    return kind(**known)


def record_to_json(record: object) -> dict[str, Any]:
    """The JSON object of a dataclass, in the order of its fields. Fields with their default value are left out."""
    result: dict[str, Any] = {}
    for field in fields(cast(Any, record)):
        value = getattr(record, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name != EXTRA and (default is MISSING or value != default):
            result[_stored_key(field)] = _value_to_json(value)
    return {**result, **getattr(record, EXTRA, {})}


@cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _stored_key(field: Field[Any]) -> str:
    return str(field.metadata.get("key", field.name))


def _parse_value(hint: Any, value: object, name: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return (
            None if value is None else _parse_value(next(hint for hint in inner if hint is not NoneType), value, name)
        )
    if origin is tuple:
        if not isinstance(value, list):
            raise ValueError(f"`{name}` is not a list")
        return tuple(_parse_value(inner[0], item, f"{name}[{number}]") for number, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise ValueError(f"`{name}` is not a mapping")
        return {key: _parse_value(inner[1], item, f"{name}.{key}") for key, item in value.items()}
    if is_dataclass(hint):
        return parse_record(cast(type, hint), value, name)
    if hint is Any:
        return value
    if issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise ValueError(f"`{name}` is not one of {', '.join(hint)}") from error
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"`{name}` is not {NAMES[hint]}")
    # Python reads integers of any length, and NaN, which are not JSON for others.
    if isinstance(value, int | float) and not abs(value) <= LARGEST:
        raise ValueError(f"`{name}` is out of range")
    return value


def _value_to_json(value: Any) -> Any:
    if is_dataclass(value):
        return record_to_json(value)
    if isinstance(value, Mapping):
        return {key: _value_to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_value_to_json(item) for item in value]
    return value
