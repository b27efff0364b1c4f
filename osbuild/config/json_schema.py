"""The JSON Schema of one profile file, generated from the table, for editors and other tools."""

from typing import Any

from osbuild.config import key_table
from osbuild.config.key_table import Key, Kind, Shape
from osbuild.config.metadata import REFERENCE, SecretRef, Size
from osbuild.config.profile import Profile
from osbuild.host.architecture import Architecture


def make_schema() -> dict[str, Any]:
    """Return the JSON Schema 2020-12 of one profile file, before it is merged with what it extends."""
    schema = _block(Profile, top=True)
    schema["properties"][key_table.INHERIT] = {
        "description": key_table.INHERIT_HELP,
        "anyOf": [_name(), {"type": "array", "items": _name()}],
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:edge-osbuild:profile",
        "title": "edge-osbuild profile",
        "description": "What one kind of node is.",
        **schema,
        "required": ["name"],
        "anyOf": [{"required": ["version"]}, {"required": [key_table.INHERIT]}],
    }


def _name() -> dict[str, Any]:
    return {"type": "string", "pattern": key_table.LINE, "minLength": 1}


def _block(block: type, *, top: bool = False, item: bool = False) -> dict[str, Any]:
    """Return the schema of a block. A list may also be `KEY+`, except in items of lists, which are not merged."""
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
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if exclusive:
        schema["dependentSchemas"] = exclusive
    required = [key.name for key in table.values() if key.required]
    if required and not top:
        schema["required"] = required
    return schema


def _value(key: Key) -> dict[str, Any]:
    """Return the schema of a key's value. Null stands for the default of a list or scalar."""
    schema = _shape(key.shape, key)
    if key.shape.kind in (Kind.LEAF, Kind.LIST) and not key.required:
        return _nullable(schema)
    return schema


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    schema = dict(schema)
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    schema["type"] = [*types, "null"]
    if "enum" in schema:
        schema["enum"] = [*schema["enum"], None]
    return schema


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
        schema = {"type": "object", "additionalProperties": _nullable(inner) if inner else True}
        return {**schema, "propertyNames": {"pattern": key.limits["keys"]}} if "keys" in key.limits else schema
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
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    if "integer" in kinds:
        schema["minimum"] = key.limits.get("minimum", key_table.INTEGERS[0])
        schema["maximum"] = key.limits.get("maximum", key_table.INTEGERS[1])
    if key.choices:
        schema["enum"] = [str(choice) for choice in key.choices]
    elif Size in types:
        schema["pattern"] = key_table.SIZE
    elif SecretRef in types:
        schema["pattern"] = REFERENCE
    elif str in types and not key.limits.get("lines"):
        schema["pattern"] = key.limits.get("pattern", key_table.LINE)
    return schema
