"""`--set KEY=VALUE`: keys of the profile that differ for one node.

KEY is dotted, as `edge-osbuild profile show` prints it: `hostname`, `time.servers`, `network.interfaces[0].mtu`,
`kubernetes.labels.disk`. VALUE is YAML, parsed by the type of the key. Only keys of the seed can be set, because a
seed can't change the image.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from osbuild.config import document
from osbuild.config import load as loading
from osbuild.config.document import List, Map, MappingItem, Mark, Node, Scalar
from osbuild.config.key_table import Key, Kind, every_key, keys_of
from osbuild.config.load import LoadedProfile
from osbuild.config.profile import Profile
from osbuild.config.scalars import find_nearest
from osbuild.config.values import ValueReader
from osbuild.shared.errors import Error, UsageError

SLASH = "∕"  # replaces `/` in an option that stands for a file name
STEP = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_-]*)(\[(?P<index>\d+)\])?(\.|$)")


@dataclass(frozen=True)
class Setting:
    """One `--set`: `steps` are the names of keys and the indexes of items that lead from the top to the value."""

    text: str
    steps: tuple[str | int, ...]
    value: Node

    @property
    def where(self) -> str:
        """The option as it was given, without the value, which may be secret."""
        return f"--set {self.text}"


def parse_setting(option: str) -> Setting:
    """Read one `KEY=VALUE`. Raises `UsageError`."""
    text, equals, value = option.partition("=")
    text = text.strip()
    if not equals or not text:
        raise UsageError(
            f"`{text}` is not KEY=VALUE", where="--set", hint="write it like `--set hostname=edge-7`, without spaces"
        )
    steps, key = resolve_key(text)
    where = f"--set {text}"
    # Paths in a value are relative to the current folder, as everywhere on a command line.
    mark = Mark(
        Path.cwd() / where.replace("/", SLASH)
    )  # only the folder matters, so the name must not contain a separator
    try:
        node = document.parse_document(value, mark.path)
    except Error as error:
        raise UsageError(error.message, where=where, hint=error.hint) from error
    node = Scalar("", "null", mark) if node is None else node
    if isinstance(node, Scalar) and key.shape.kind is not Kind.ANY and node.kind not in ("string", "null"):
        shape = key.shape.item if key.shape.kind is Kind.MAP and key.shape.item else key.shape
        if shape.kind is Kind.LEAF and not {bool, int} & set(shape.types):
            node = Scalar(node.text, "string", node.mark)  # `version=1.10` on a command line is text
    return Setting(text, steps, node)


def resolve_key(text: str) -> tuple[tuple[str | int, ...], Key]:
    """Follow a dotted name through the table of keys, to (steps, key). Raises `UsageError`."""
    steps: list[str | int] = []
    block: type = Profile
    changes: str | None = None
    remaining = text
    while True:
        match = STEP.match(remaining)
        name = match["name"] if match else remaining
        key = keys_of(block).get(name)
        if match is None or key is None:
            raise unknown_key(text)
        changes = key.limits.get("affects", changes)
        steps.append(name)
        remaining = remaining[match.end() :]
        if match["index"] is not None:
            if key.shape.kind is not Kind.LIST:
                raise UsageError(
                    f"`{name}` is not a list", where=f"--set {text}", hint=f"leave out `[{match['index']}]`"
                )
            steps.append(int(match["index"]))
        if key.shape.kind is Kind.MAP and remaining:
            steps.append(remaining)  # names in a mapping are the user's choice and may contain dots
            remaining = ""
        inner = key.shape.item if match["index"] is not None else key.shape
        if remaining and inner is not None and inner.kind is Kind.BLOCK:
            block = inner.types[0]
            continue
        if remaining:
            raise unknown_key(text)
        if inner is not None and inner.kind is Kind.BLOCK and changes is None:
            below = {inside.limits.get("affects", "image") for _, inside in every_key(inner.types[0])}
            changes = "seed" if below == {"seed"} else None
        if changes != "seed":
            raise fixed_key(text, key, changes)
        return tuple(steps), key


def unknown_key(text: str) -> UsageError:
    """Return the error for an unknown key, with the most similar key of a seed."""
    known = {name.replace("[]", "[0]"): key for name, key in every_key() if key.limits.get("affects") == "seed"}
    plain = re.sub(r"\[\d+\]", "[0]", text)
    suggestion = find_nearest(plain, known) or next((name for name in known if name.rpartition(".")[2] == plain), None)
    hint = f"did you mean `{suggestion}`?" if suggestion else "`edge-osbuild profile show` prints every key"
    return UsageError("this key does not exist", where=f"--set {text}", hint=hint)


def fixed_key(text: str, key: Key, changes: str | None) -> UsageError:
    """Return the error for a key that does not belong to the seed."""
    if changes == "none":
        return UsageError("this key has no effect on a node", where=f"--set {text}", hint="omit it")
    if key.shape.kind is Kind.BLOCK:
        return UsageError(
            "some of this is part of the image, which a seed can't change",
            where=f"--set {text}",
            hint="set the keys below it one by one",
        )
    return UsageError(
        "this is part of the image, which a seed can't change",
        where=f"--set {text}",
        hint="set it in the profile, or in one that extends it, and build that image",
    )


def apply_settings(document: Map, settings: Iterable[Setting]) -> Map:
    """Return the document with every setting applied. Raises `UsageError` if a list does not have the item."""
    for setting in settings:
        changed = put_value(document, setting.steps, setting)
        assert isinstance(changed, Map)
        document = changed
    return document


def put_value(node: Node | None, steps: tuple[str | int, ...], setting: Setting) -> Node:
    """Return `node` with the setting's value at the path `steps`. Raises `UsageError`."""
    if not steps:
        return setting.value
    first, remaining = steps[0], steps[1:]
    if isinstance(first, int):
        items = node.items if isinstance(node, List) else ()
        if first > len(items):
            raise UsageError(
                f"the list has {len(items)} items, counted from 0",
                where=setting.where,
                hint=f"write [{len(items)}] to add one",
            )
        old = items[first] if first < len(items) else None
        mark = node.mark if node is not None else setting.value.mark
        return List((*items[:first], put_value(old, remaining, setting), *items[first + 1 :]), mark)
    entries = dict(node.entries) if isinstance(node, Map) else {}
    before = entries.get(first)
    value = put_value(before.value if before else None, remaining, setting)
    entries[first] = MappingItem(before.mark if before else setting.value.mark, value)
    return Map(entries, node.mark if isinstance(node, Map) else setting.value.mark)


def check_setting(setting: Setting) -> None:
    """Read the value alone, so that an error in it names this option. Raises `UsageError`."""
    if any(isinstance(step, int) for step in setting.steps):
        return  # an item may need keys that the profile has
    document_of_setting = put_value(None, setting.steps, setting)
    try:
        ValueReader(None).block(document_of_setting, Profile, "", top=True)
    except Error as error:
        raise UsageError(error.message, where=setting.where, hint=error.hint) from error


def load_with_settings(path: Path, options: Iterable[str]) -> LoadedProfile:
    """Load the profile at `path` with every `--set` applied.

    Raises `UsageError` if one of `options` is invalid, alone or together with the profile, and otherwise `Error`.
    """
    settings = [parse_setting(option) for option in options]
    for setting in settings:
        check_setting(setting)
    try:
        loaded = loading.load_profile(path, change=lambda tree: apply_settings(tree, settings))
    except Error as error:
        position = (error.where or "").replace(SLASH, "/")
        if not position.startswith("--set "):
            raise
        position = re.sub(r":[0-9]+:[0-9]+$", "", position)  # an option has no lines
        raise UsageError(error.message, where=position, hint=error.hint) from error
    for setting in settings:
        if setting.steps[0] == "kubernetes" and loaded.profile.kubernetes.role == "none":
            hint = "leave it out, or name a profile with `kubernetes.role`"
            raise UsageError(
                "this has no effect: nodes of the profile run no Kubernetes", where=setting.where, hint=hint
            )
    return loaded
