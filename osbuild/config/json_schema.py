"""The JSON Schema of one profile file, generated from the table, for editors and other tools."""

from typing import Any

from osbuild.config import key_table
from osbuild.config.key_table import Key, Kind, Shape
from osbuild.config.metadata import SecretRef, Size
from osbuild.config.profile import Profile
from osbuild.host.architecture import Architecture


def make_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of a profile as it is written, before what it extends is merged in."""
    found = _block(Profile, top=True)
    found["properties"][key_table.INHERIT] = {
        "description": key_table.INHERIT_HELP,
        "anyOf": [_name(), {"type": "array", "items": _name()}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:edge-osbuild:profile",
        "title": "edge-osbuild profile",
        "description": "What one kind of node is.",
        **found,
        "required": ["name"],
        "anyOf": [{"required": ["version"]}, {"required": [key_table.INHERIT]}],
    }


def _name() -> dict[str, Any]:
    return {"type": "string", "pattern": key_table.LINE, "minLength": 1}


def _block(block: type, *, top: bool = False, item: bool = False) -> dict[str, Any]:
    """A block's keys; those that are lists also as `KEY+`, except in the items of a list, which are not merged."""
    properties: dict[str, Any] = {}
    exclusive: dict[str, Any] = {}
    table = key_table.keys_of(block)
    for key in table.values():
        properties[key.name] = {"description": key.limits["help"], **_value(key)}
        if key.default not in (None, "") and key.shape.kind in (Kind.LEAF, Kind.LIST):
            properties[key.name]["default"] = key_table.to_json(key.default)
        if key.shape.kind is Kind.LIST and not item:
            appended = {**_shape(key.shape, key), "type": "array"}
            properties[f"{key.name}+"] = {
                "description": f"{key.limits['help']}; appends to what is inherited",
                **appended,
            }
            exclusive[f"{key.name}+"] = {"properties": {key.name: False}}
    found: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if exclusive:
        found["dependentSchemas"] = exclusive
    required = [key.name for key in table.values() if key.required]
    if required and not top:
        found["required"] = required
    return found


def _value(key: Key) -> dict[str, Any]:
    """A key's value, which may be null for its default where that makes sense."""
    found = _shape(key.shape, key)
    if key.shape.kind in (Kind.LEAF, Kind.LIST) and not key.required:
        return _nullable(found)
    return found


def _nullable(found: dict[str, Any]) -> dict[str, Any]:
    found = dict(found)
    types = found["type"] if isinstance(found["type"], list) else [found["type"]]
    found["type"] = [*types, "null"]
    if "enum" in found:
        found["enum"] = [*found["enum"], None]
    return found


def _shape(shape: Shape, key: Key) -> dict[str, Any]:
    if shape.kind is Kind.ANY:
        return {}
    if shape.kind is Kind.BLOCK:
        return _block(shape.types[0], item=key.shape.kind is Kind.LIST)
    if shape.kind is Kind.LIST:
        assert shape.item
        return {"type": "array", "items": _shape(shape.item, key)}
    if shape.kind is Kind.MAP:
        assert shape.item
        inner = _shape(shape.item, key)
        found = {"type": "object", "additionalProperties": _nullable(inner) if inner else True}
        return {**found, "propertyNames": {"pattern": key.limits["keys"]}} if "keys" in key.limits else found
    return _leaf(shape.types, key)


def _leaf(types: tuple[type, ...], key: Key) -> dict[str, Any]:
    names = {
        str: "string",
        int: "integer",
        bool: "boolean",
        Size: "string",
        SecretRef: "string",
        Architecture: "string",
    }
    kinds = [names[kind] for kind in types]
    found: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if "integer" in kinds:
        found["minimum"] = key.limits.get("minimum", key_table.INTEGERS[0])
        found["maximum"] = key.limits.get("maximum", key_table.INTEGERS[1])
    if key.choices:
        found["enum"] = [str(choice) for choice in key.choices]
    elif Size in types:
        found["pattern"] = key_table.SIZE
    elif SecretRef in types:
        found["pattern"] = key_table.REFERENCE
    elif str in types and not key.limits.get("lines"):
        found["pattern"] = key.limits.get("pattern", key_table.LINE)
    return found
