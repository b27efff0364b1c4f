"""Checks the users of a user's own cloud-config by the same rules as those of a profile."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from osbuild.config.checks import accounts, password_hash
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile, User
from osbuild.host import paths
from osbuild.seed import writable
from osbuild.seed.cloud_config import UserData
from osbuild.seed.groups import accounts_known, group_members, split_names
from osbuild.seed.user_entries import UserEntry, list_users
from osbuild.seed.users import user_id

DEFAULT_USER = "debian"
LARGEST_ID = 2**32 - 2  # 2**32 - 1 means "no id"
RESERVED_IDS = 100  # Debian's own accounts have ids below, and `nobody` has the other one
NOBODY = 65534
LOCKED = ("", "!", "*", "!!", "!*")


def check(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a user or group that can't be created as specified. `folder` is the profile's."""
    folders = [paths.overlay_path(name, folder) for name in profile.overlays]
    numbers = profile_ids(profile)
    for user in list_users(user_data.config):
        if user.name != "default":
            check_account_name(user_data, user.name, f"{user.key}.name" if user.settings else user.key)
        check_number(user_data, user, numbers)
        check_fields(user_data, user)
        check_credentials(user_data, user)
        check_shell(user_data, user, (profile, folders))
        for key in ("groups", "primary_group"):
            for group in split_names(user.settings.get(key)):
                if not (key == "primary_group" and group.isdecimal()):
                    check_account_name(user_data, group, f"{user.key}.{key}")
    for group, _ in group_members(user_data.config.get("groups")):
        check_account_name(user_data, group, "groups")
    check_keys(user_data, user_data.config.get("ssh_authorized_keys"), "default", "ssh_authorized_keys")
    check_chpasswd(user_data, profile, folders)


def check_account_name(user_data: UserData, name: str, key: str) -> None:
    """Raise `UsageError` for a name that useradd(8) and groupadd(8) refuse."""
    if reason := accounts.account_name_problem(name):
        hint = "write another name, such as `admin`"
        raise user_data.error(f"found the name {quote_text(name)}, which Debian refuses: {reason}", hint, key)


def profile_ids(profile: Profile) -> dict[int, str]:
    """Return the user ids of the profile's users, with their names."""
    numbers: dict[int, str] = {}
    for user in profile.users:
        numbers[user_id(user.name, set(numbers))] = user.name
    return numbers


def check_number(user_data: UserData, user: UserEntry, numbers: dict[int, str]) -> None:
    """Raise `UsageError` for a user id that is not valid or in `numbers`, and add it to them."""
    value, key = user.settings.get("uid"), f"{user.key}.uid"
    if value is None:
        return
    number = int(value) if str(value).isdecimal() and not isinstance(value, bool) else -1
    if not RESERVED_IDS <= number <= LARGEST_ID or number == NOBODY:
        message = f"found the user id {quote_text(str(value))}, expected one from {RESERVED_IDS} to {LARGEST_ID}"
        raise user_data.error(message, "remove it: the node derives the id from the name", key)
    if number in numbers:
        hint = "remove it: the node derives the id from the name"
        raise user_data.error(f"the user {quote_text(numbers[number])} has the id {number} too", hint, key)
    numbers[number] = user.name


def check_fields(user_data: UserData, user: UserEntry) -> None:
    """Raise `UsageError` for a field that useradd(8) or sudo(8) refuses."""
    gecos, home = user.settings.get("gecos"), user.settings.get("homedir")
    if isinstance(gecos, str) and set(gecos) & set(":\n"):
        hint = "remove the `:` or the line break"
        raise user_data.error("found a `:` or a line break in `gecos`", hint, f"{user.key}.gecos")
    if isinstance(home, str) and home:
        key = f"{user.key}.homedir"
        if not home.startswith("/") or ".." in home.split("/") or set(home) & set(":\n"):
            raise user_data.error(f"found the home {quote_text(home)}", "write an absolute path without `..`", key)
        is_created = not (user.settings.get("no_create_home") or user.settings.get("system"))
        if is_created and writable.is_read_only(home):
            hint = "write a folder below /home, /var or /srv, or add `no_create_home: true`"
            raise user_data.error(f"the home {quote_text(home)} can't be created: the root is read-only", hint, key)
    rules = user.settings.get("sudo")
    for rule in rules if isinstance(rules, list) else [rules]:
        if isinstance(rule, str) and rule.strip() and not is_sudo_rule(rule):
            message = "found a rule that is not one of sudoers(5)"
            raise user_data.error(message, "write it like `ALL=(ALL) NOPASSWD:ALL`", f"{user.key}.sudo")


def is_sudo_rule(rule: str) -> bool:
    """Whether a rule has the form `HOSTS = (USERS) COMMANDS`."""
    hosts, equals, commands = rule.partition("=")
    balanced = commands.count("(") == commands.count(")") and "(" not in hosts and ")" not in hosts
    return bool(hosts.strip() and equals and commands.strip()) and balanced


def check_credentials(user_data: UserData, user: UserEntry) -> None:
    """Raise `UsageError` for a password hash or an SSH key that is not valid."""
    for name in ("passwd", "hashed_passwd"):
        if isinstance(text := user.settings.get(name), str) and text not in LOCKED:
            check_hash(user_data, text.removeprefix("!"), f"{user.key}.{name}")
    check_keys(user_data, user.settings.get("ssh_authorized_keys"), user.name, f"{user.key}.ssh_authorized_keys")


def check_hash(user_data: UserData, text: str, key: str) -> None:
    """Raise `UsageError` for a hash with which nobody can log in."""
    if reason := password_hash.password_problem(text):
        hint = "write the output of `openssl passwd -6`; a password itself is `plain_text_passwd` or `type: text`"
        raise user_data.error(f"this is not a password hash: {reason}", hint, key)


def check_keys(user_data: UserData, lines: object, name: str, key: str) -> None:
    """Raise `UsageError` for a line that is not an SSH public key. cloud-init ignores empty lines and comments."""
    for number, line in enumerate(lines if isinstance(lines, list) else []):
        if isinstance(line, str) and line.strip() and not line.lstrip().startswith("#"):
            with user_data.located(f"{key}[{number}]"):
                accounts.check_ssh_key(name, line, key)


def check_shell(user_data: UserData, user: UserEntry, image: tuple[Profile, list[Path]]) -> None:
    """Raise `UsageError` for a shell that neither the image nor the seed has. `image`: profile, folders of overlays."""
    shell = user.settings.get("shell")
    if isinstance(shell, str) and shell and writable.is_read_only(shell):
        with user_data.located(f"{user.key}.shell"):
            accounts.check_shell(image[0], User(name=user.name, shell=shell), image[1], user.key)


def check_chpasswd(user_data: UserData, profile: Profile, folders: list[Path]) -> None:
    """Raise `UsageError` for the password of a user that does not exist, and for a hash that is not valid."""
    users, _ = accounts.declared_accounts(folders)
    names = {user.name for user in list_users(user_data.config)}
    known = users | names | {user.name for user in profile.users}
    if "default" in names or "users" not in user_data.config:
        known |= {DEFAULT_USER}
    for key, name, password, kind in passwords(user_data.config):
        # A command of `bootcmd` may create users too.
        if name not in known and accounts_known(profile) and not user_data.config.get("bootcmd"):
            raise user_data.error(f"there is no user {quote_text(name)}", "add the user to `users`", key)
        if kind == "hash" and password not in LOCKED:
            check_hash(user_data, password.removeprefix("!"), key)


def passwords(config: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (key, user, password, type) of every entry of `chpasswd`."""
    value = config.get("chpasswd")
    settings = value if isinstance(value, dict) else {}
    users, lines = settings.get("users"), settings.get("list")
    for number, entry in enumerate(users if isinstance(users, list) else []):
        if isinstance(entry, dict):
            kind = str(entry.get("type", "hash"))
            yield f"chpasswd.users[{number}]", str(entry.get("name")), str(entry.get("password", "")), kind
    for line in lines.splitlines() if isinstance(lines, str) else lines if isinstance(lines, list) else []:
        name, colon, password = str(line).partition(":")
        if colon:
            yield "chpasswd.list", name, password, "text"
