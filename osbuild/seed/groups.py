"""Checks groups in a user's own cloud-config: refuses those that `useradd` would refuse on the node."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osbuild.config.checks import accounts
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.seed.cloud_config import UserData
from osbuild.seed.user_entries import user_names
from osbuild.shared.errors import Error


def check(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a user that can't be created because of its groups. `folder` is the profile's."""
    # cloud-init creates the groups in `groups`, then each user with the groups of the user, unless `create_groups` is
    # false. Each user also gets a group of the same name, which must not exist yet.
    users, existing = accounts.declared_accounts([paths.overlay_path(name, folder) for name in profile.overlays])
    users |= {*(user.name for user in profile.users), *(name for _, name in user_names(user_data.config))}
    user_groups = {name for _, name, entry in entries(user_data.config) if has_own_group(entry)}
    for group, members in group_members(user_data.config.get("groups")):
        if group in user_groups or group in {user.name for user in profile.users}:
            message = f"found the group {quote_text(group)}, but the user of that name gets a group of the same name"
            raise user_data.error(message, "remove it, or set it as the user's `primary_group`", "groups")
        for member in members:
            if member not in users and accounts_known(profile):
                hint = "remove it, or add the user to `users`"
                raise user_data.error(
                    f"found no user {quote_text(member)} for the group {quote_text(group)}", hint, "groups"
                )
        existing |= {group}
    for user in profile.users:
        existing |= {user.name, *user.groups}
    for key, name, entry in entries(user_data.config):
        listed, primary = split_names(entry.get("groups")), split_names(entry.get("primary_group"))
        primary = [group for group in primary if not group.isdecimal()]  # a group id
        for group in listed:
            if group in user_groups and group not in existing:
                hint = "remove it" if group == name else f"move the user `{group}` before `{name}`"
                raise user_data.error(f"found the group {quote_text(group)} before the user of that name", hint, key)
        if not (listed and entry.get("create_groups", True)) and accounts_known(profile):
            for group in [*listed, *primary]:
                check_known(user_data, group, existing, key)
        existing |= {name, *listed, *primary}


def check_known(user_data: UserData, group: str, known: frozenset[str], key: str) -> None:
    """Raise `UsageError` for a group that is not in `known`, because nothing creates it."""
    try:
        accounts.check_group(group, known, key)
    except Error as error:
        hint = f"{error.hint}; or add it to `groups` of the file, which creates it"
        raise user_data.error(error.message, hint, key) from error


def accounts_known(profile: Profile) -> bool:
    """Whether all users and groups of the image are known without building it."""
    return not (profile.packages or profile.elements)


def entries(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (key, name, entry) of every user with settings that a cloud-config creates."""
    listed = config.get("users")
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield f"users[{number}]", entry["name"], entry


def has_own_group(entry: Mapping[str, Any]) -> bool:
    """Whether `useradd` creates a group of the user's name."""
    return not (entry.get("primary_group") or entry.get("no_user_group") or entry.get("snapuser"))


def split_names(value: Any) -> list[str]:
    """Return the names in a list, or in a string with commas, as cloud-init reads them."""
    listed = value.split(",") if isinstance(value, str) else value
    if not isinstance(listed, list | dict):  # the schema of cloud-init refuses that with its position
        return []
    return [name.strip() for name in listed if isinstance(name, str) and name.strip()]


def group_members(value: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, members) of the groups in a cloud-config's `groups`, in any form that cloud-init accepts."""
    listed = value if isinstance(value, list) else [value] if isinstance(value, dict) else split_names(value)
    for entry in listed:
        if isinstance(entry, str):
            yield entry, []
        elif isinstance(entry, dict):
            for name, members in entry.items():
                yield str(name), split_names([members] if isinstance(members, str) else members)
