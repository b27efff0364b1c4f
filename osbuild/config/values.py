"""Converts a YAML document to the dataclasses of the table, with one error for an invalid value."""

import os
import re
from pathlib import Path
from typing import Any

from osbuild.config import key_table, scalars
from osbuild.config.document import List, Map, Mark, Node, Scalar, quote_text
from osbuild.config.key_table import Key, Kind, Shape
from osbuild.config.metadata import REFERENCE, SecretRef, Size
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.host.architecture import Architecture
from osbuild.shared.errors import Error

_BELOW = "write `{}: VALUE` lines below it, indented, or remove it"


def check_structure(document: Map, *, fragment: bool = False) -> None:
    """Check one file as the JSON Schema does, before it is merged with what it extends. Raises `Error`.

    A `fragment` is there to be extended and need not have a name or version.
    """
    ValueReader(None).block(document, Profile, "", top=True)
    if not fragment and "name" not in document.entries:
        name = re.sub(r"[^a-z0-9]+", "-", document.mark.path.stem.lower()).strip("-") or "my-node"
        message = "`name` is missing, and every profile needs its own"
        raise Error(message, where=str(document.mark), hint=f"write `name: {name[:63]}`")
    if not fragment and not document.entries.keys() & {"version", key_table.INHERIT}:
        message = "`version` is missing"
        raise Error(message, where=str(document.mark), hint="write `version: 1.0.0`")


class ValueReader:
    """Reads values. Afterwards `keys_at` and `values_at` map every stated dotted key to its position.

    `folder` is the folder that paths shall be relative to in the result; None leaves them as written.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.keys_at: dict[str, Mark] = {}
        self.values_at: dict[str, Mark] = {}

    def profile(self, document: Map) -> Profile:
        """Read a merged document. Raises `Error`."""
        values = self.block(document, Profile, "", top=True)
        if "version" not in values:
            message = "`version` is missing, here and in the profiles that this one extends"
            raise Error(message, where=str(document.mark), hint="write `version: 1.0.0`")
        return Profile(**values)

    def block(self, node: Node, block: type, path: str, *, top: bool = False, item: bool = False) -> dict[str, Any]:
        """Read the keys of one dataclass. `item`: in a list, whose items are never merged."""
        if not isinstance(node, Map):
            raise scalars.mismatch_error(node, path, "a block of keys", _BELOW.format("KEY"))
        table = key_table.keys_of(block)
        values: dict[str, Any] = {}
        for name, entry in node.entries.items():
            if top and name == key_table.INHERIT:
                continue
            plain = name.removesuffix("+")
            key = table.get(plain)
            if key is None:
                raise _unknown(name, entry.mark, block, path)
            if plain != name:
                _append(key, name, entry.mark, node, item)
            dotted = f"{path}{plain}"
            self.keys_at[dotted], self.values_at[dotted] = entry.mark, entry.value.mark
            read_value = self.value if plain == name else self.appended
            values[plain] = read_value(entry.value, key, dotted)
        if not top:
            for key in table.values():
                if key.required and key.name not in values:
                    message = f"no `{key.name}` in this item of `{path.split('[')[0]}`"
                    raise Error(message, where=str(node.mark), hint=f"write `{key.name}:`, {key.limits['help']}")
        return values

    def value(self, node: Node, key: Key, path: str) -> Any:
        """Read the value of one key. An empty value (null) stands for the key's default."""
        kind = key.shape.kind
        if _null(node) and kind in (Kind.LEAF, Kind.LIST) and not key.required:
            return key.default
        return self.shaped(node, key.shape, key, path)

    def appended(self, node: Node, key: Key, path: str) -> Any:
        """Read the value of `KEY+`, which is a list and never null."""
        return self.shaped(node, key.shape, key, path)

    def shaped(self, node: Node, shape: Shape, key: Key, path: str, *, item: bool = False) -> Any:
        if shape.kind is Kind.BLOCK:
            block = shape.types[0]
            return block(**self.block(node, block, f"{path}.", item=item))
        if shape.kind is Kind.LIST:
            return self.list(node, shape, key, path)
        if shape.kind is Kind.MAP:
            return self.map(node, shape, key, path)
        if shape.kind is Kind.ANY:
            secret = path.rpartition(".")[2] in key.limits.get("references", ())
            return self.any(self.relocated(node) if secret else node, path)
        return self.leaf(node, shape, key, path)

    def list(self, node: Node, shape: Shape, key: Key, path: str) -> tuple[Any, ...]:
        assert shape.item
        if not isinstance(node, List):
            block = shape.item.kind is Kind.BLOCK
            text = node.text if isinstance(node, Scalar) and not scalars.is_private(key, node) else "VALUE"
            hint = "begin each item with `- `" if block else f"write it as a list: {quote_text(f'[{text}]')}"
            raise scalars.mismatch_error(node, path, "a list", hint, private=scalars.is_private(key, node))
        values = []
        for number, inner in enumerate(node.items):
            dotted = f"{path}[{number}]"
            self.keys_at[dotted] = self.values_at[dotted] = inner.mark
            values.append(self.shaped(inner, shape.item, key, dotted, item=True))
        return tuple(values)

    def map(self, node: Node, shape: Shape, key: Key, path: str) -> dict[str, Any]:
        assert shape.item
        if not isinstance(node, Map):
            raise scalars.mismatch_error(node, path, "a mapping", _BELOW.format("NAME"))
        values = {}
        for name, entry in node.entries.items():
            if (pattern := key.limits.get("keys")) and not re.fullmatch(pattern, name):
                message = f"found the name {quote_text(name)} in `{path}`, expected {key.limits['keys_form']}"
                raise Error(message, where=str(entry.mark), hint="check its spelling")
            dotted = f"{path}.{name}"
            self.keys_at[dotted], self.values_at[dotted] = entry.mark, entry.value.mark
            if not _null(entry.value):
                values[name] = self.shaped(entry.value, shape.item, key, dotted)
        return values

    def any(self, node: Node, path: str) -> Any:
        """Read any JSON value; an empty value removes an inherited entry."""
        if isinstance(node, List):
            return [self.any(item, path) for item in node.items]
        if isinstance(node, Map):
            for name, entry in node.entries.items():
                self.keys_at[f"{path}.{name}"] = entry.mark
            return {
                name: self.any(entry.value, f"{path}.{name}")
                for name, entry in node.entries.items()
                if not _null(entry.value)
            }
        if node.kind == "string":
            return node.text
        if node.kind == "null":
            return None
        if node.kind == "boolean":
            return scalars.read_boolean(node, path)
        if node.kind == "number":
            is_integer = re.fullmatch(r"[-+]?[0-9xob_:]+", node.text)
            return scalars.read_integer(node, path) if is_integer else scalars.read_decimal(node, path)
        raise scalars.mismatch_error(node, path, "a text, number or boolean", scalars.quote_advice(node))

    def leaf(self, node: Node, shape: Shape, key: Key, path: str) -> Any:
        types = shape.types
        if bool in types:
            return scalars.read_boolean(node, path)
        if Size in types:
            return scalars.read_size(node, path)
        if int in types and isinstance(node, Scalar) and (node.kind == "number" or str not in types):
            return scalars.check_limits(scalars.read_integer(node, path), node, key, path)
        text = scalars.read_text(node, path, SecretRef in types, int in types, scalars.is_private(key, node))
        if key.choices:
            if text not in key.choices:
                raise scalars.choice_error(text, node, key, path)
            return Architecture(text) if Architecture in types else text
        if SecretRef in types:
            if not re.fullmatch(REFERENCE, text):
                message = f"found a literal value for `{path}`, expected a reference to a secret"
                hint = "put it in a file outside of the profile and write `file:PATH`, or `env:NAME` for a variable"
                raise Error(message, where=str(node.mark), hint=hint)
            return SecretRef(self.relocate(text, node.mark.path.parent, "reference"))
        pattern = key.limits.get("pattern") or (".*" if key.limits.get("lines") else key_table.LINE)
        if not re.fullmatch(pattern, text, re.DOTALL):
            form = key.limits.get("form", "one line of text")
            hint = f"`{path}` is: {key.limits['help']}"
            raise scalars.mismatch_error(node, path, form, hint, private=scalars.is_private(key, node))
        return self.relocate(text, node.mark.path.parent, key.limits.get("path"))

    def relocated(self, node: Node) -> Node:
        """Return a reference to a secret relative to `self.folder`, and any other node unchanged."""
        if not isinstance(node, Scalar) or node.kind != "string":
            return node
        return Scalar(self.relocate(node.text, node.mark.path.parent, "reference"), node.kind, node.mark)

    def relocate(self, text: str, stated: Path, path_kind: str | None) -> str:
        """Return a path that is relative to the folder `stated`, relative to `self.folder`."""
        prefix = "file:" if path_kind == "reference" else ""
        named = text.removeprefix(prefix)
        if self.folder is None or path_kind is None or self.folder == stated or not text.startswith(prefix):
            return text
        if named.startswith(("/", "~/")) or _is_name(named, path_kind):
            return text
        moved = os.path.relpath(stated / named, self.folder)
        return prefix + (moved if "/" in moved else f"./{moved}")


def _is_name(text: str, path_kind: str) -> bool:
    if path_kind == "overlay":
        return "/" not in text and paths.path_exists(paths.overlays_folder() / text)
    if path_kind == "element":
        return "/" not in text and paths.path_exists(paths.ELEMENTS / text)
    return path_kind == "archive" and text == "demo"


def _null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.kind == "null"


def _unknown(name: str, mark: Mark, block: type, path: str) -> Error:
    plain = name.removesuffix("+")
    table = key_table.keys_of(block)
    known = [*table, *([] if path else [key_table.INHERIT])]
    where = f" in `{path.removesuffix('.')}`" if path else ""
    if suggestion := scalars.find_nearest(plain.replace("-", "_").lower(), known):
        hint = f"did you mean `{suggestion}`?"
    elif elsewhere := [dotted for dotted, key in key_table.every_key() if key.name == plain]:
        hint = f"did you mean `{elsewhere[0]}`?"
    else:
        hint = f"known keys here: {', '.join(known)}"
    return Error(f"unknown key {quote_text(name)}{where}", where=str(mark), hint=hint)


def _append(key: Key, name: str, mark: Mark, node: Map, item: bool) -> None:
    plain = key.name
    if key.shape.kind is not Kind.LIST or item:
        message = f"found {quote_text(name)}, but there is nothing to append to"
        why = "items of a list are not merged" if item else f"`{plain}` is not a list"
        raise Error(message, where=str(mark), hint=f"write `{plain}`: {why}")
    if plain in node.entries:
        hint = f"keep `{name}` to append to the inherited list, or `{plain}` to replace it"
        raise Error(f"found both `{plain}` and `{name}`", where=str(mark), hint=hint)
