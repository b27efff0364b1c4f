"""Groups of a user's own cloud-config: a group that `useradd` would refuse on the node is refused with the seed."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from osbuild.config.checks import accounts
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.seed.cloud_config import UserData, user_names
from osbuild.shared.errors import Error


def check(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a user whose groups would keep the user from being created. `folder` is the profile's.

    cloud-init creates the groups of `groups`, then each user with the groups that the user names, unless
    `create_groups` is false. A user then gets a group of the same name, which must not exist yet.
    """
    users, known = accounts.declared_accounts([paths.overlay_path(name, folder) for name in profile.overlays])
    users |= {*(user.name for user in profile.users), *(name for _, name in user_names(user_data.config))}
    of_users = {name for _, name, entry in entries(user_data.config) if has_own_group(entry)}
    for group, members in top(user_data.config.get("groups")):
        if group in of_users or group in {user.name for user in profile.users}:
            message = f"found the group {quote_text(group)} of the name of a user, who is to get a group of their own"
            raise user_data.error(message, "remove it, or give the user `primary_group` with it", "groups")
        for member in members:
            if member not in users and complete(profile):
                hint = "remove it, or add the user to `users`"
                raise user_data.error(
                    f"found no user {quote_text(member)} for the group {quote_text(group)}", hint, "groups"
                )
        known |= {group}
    for user in profile.users:
        known |= {user.name, *user.groups}
    for key, name, entry in entries(user_data.config):
        listed, primary = words(entry.get("groups")), words(entry.get("primary_group"))
        for group in listed:
            if group in of_users and group not in known:
                hint = "remove it" if group == name else f"put the user `{group}` before `{name}`"
                raise user_data.error(
                    f"found the group {quote_text(group)} before the user of that name is there", hint, key
                )
        if not (listed and entry.get("create_groups", True)) and complete(profile):
            for group in [*listed, *primary]:
                check_known(user_data, group, known, key)
        known |= {name, *listed, *primary}


def check_known(user_data: UserData, group: str, known: frozenset[str], key: str) -> None:
    """Raise `UsageError` for a group that nobody makes."""
    try:
        accounts.check_group(group, known, key)
    except Error as error:
        hint = f"{error.hint}; or list it in `groups` of the file, which creates it"
        raise user_data.error(error.message, hint, key) from error


def complete(profile: Profile) -> bool:
    """Whether all users and groups of the image are known before it is built."""
    return not (profile.packages or profile.elements)


def entries(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, name, entry) of every user that a cloud-config creates with settings."""
    listed = config.get("users")
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield f"users[{number}]", entry["name"], entry


def has_own_group(entry: Mapping[str, Any]) -> bool:
    """Whether `useradd` creates a group of the user's name."""
    return not (entry.get("primary_group") or entry.get("no_user_group") or entry.get("snapuser"))


def words(value: Any) -> list[str]:
    """A list of names, which cloud-init takes as one text with commas too."""
    listed: Iterable[Any] = value.split(",") if isinstance(value, str) else value or []
    return [word.strip() for word in listed if isinstance(word, str) and word.strip()]


def top(value: Any) -> Iterator[tuple[str, list[str]]]:
    """(name, members) of the groups of a cloud-config's `groups`, in each of the forms that cloud-init takes."""
    listed = value if isinstance(value, list) else [value] if isinstance(value, dict) else words(value)
    for entry in listed:
        if isinstance(entry, str):
            yield entry, []
        elif isinstance(entry, dict):
            for name, members in entry.items():
                yield str(name), words([members] if isinstance(members, str) else members)
