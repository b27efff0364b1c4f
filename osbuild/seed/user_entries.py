"""The users of a cloud-config, in every form that cloud-init accepts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class UserEntry:
    """A user: the dotted `key` of its entry, and its settings with `_` in their names."""

    key: str
    name: str
    settings: Mapping[str, Any] = field(repr=False, default_factory=dict)


def list_users(config: Mapping[str, Any]) -> list[UserEntry]:
    """Return every user that a cloud-config creates. `default` is cloud-init's default user."""
    users = [*_entries(config.get("users")), *_parse_entry("user", config.get("user"))]
    return [user for user in users if user.name]


def user_names(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (key, name) of every user that a cloud-config creates, without the default user."""
    return [(user.key, user.name) for user in list_users(config) if user.name != "default"]


def _entries(listed: object) -> Iterator[UserEntry]:
    if isinstance(listed, str):
        yield from _parse_entry("users", listed)
    elif isinstance(listed, list):
        for number, entry in enumerate(listed):
            yield from _parse_entry(f"users[{number}]", entry)
    elif isinstance(listed, dict):
        for name, entry in listed.items():
            if isinstance(entry, dict):
                yield from _parse_entry(f"users.{name}", {**entry, "name": name})
            elif str(entry).lower() in ("true", "1", "on", "yes"):
                yield UserEntry(f"users.{name}", str(name))


def _parse_entry(key: str, entry: object) -> Iterator[UserEntry]:
    if isinstance(entry, str):
        yield from (UserEntry(key, name.strip()) for name in entry.split(","))
    elif isinstance(entry, list):
        yield from (UserEntry(key, name) for name in entry if isinstance(name, str))
    elif isinstance(entry, dict) and isinstance(name := entry.get("name", "default"), str):
        yield UserEntry(key, name, {str(setting).replace("-", "_"): value for setting, value in entry.items()})
