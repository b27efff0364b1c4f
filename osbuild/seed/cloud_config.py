"""A user's own cloud-config, merged with that of the profile: `edge-osbuild seed --user-data FILE`."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from osbuild.agent.seed.user_data import beginning
from osbuild.config.checks import accounts, time_zone
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.files import read_start
from osbuild.shared.seed import document
from osbuild.shared.seed.effective_keys import find_without_effect
from osbuild.shared.seed.refused import SeedRefused

LARGEST = 2**20  # bytes
FIRST = "#cloud-config"
OPTION = "--user-data"
OTHERS = {
    "#!": "a script: put its commands below `runcmd` in a cloud-config",
    "## template: jinja": "a template: write the values themselves, or make one file for each node",
    "#include": "a list of URLs, but a node is configured before it has a network",
    "#cloud-boothook": "a boot hook: put its commands below `bootcmd` in a cloud-config",
    "#part-handler": "a part handler, which has nothing to handle here",
    "#cloud-config-archive": "an archive of several parts: give the cloud-config alone",
    "#cloud-config-jsonp": "a patch: write the keys themselves",
}
# Keys of cloud-init's default user, who exists if no list of users leaves them out.
OF_DEFAULT_USER = ("password", "ssh_authorized_keys", "user")
OWN = "/etc/edge-osbuild/"  # what the profile says to the agent
READ_ONLY = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/boot/", "/efi/", "/dev/", "/proc/", "/sys/")
WRITABLE = ("/usr/local/",)  # on the data partition


@dataclass(frozen=True)
class UserData:
    """A file of the user, read and checked. `config` may hold secrets: not for a log."""

    path: Path
    config: Mapping[str, Any] = field(repr=False)

    def error(self, message: str, hint: str, key: str = "") -> UsageError:
        """The error for something in the file, below `key` if given."""
        return UsageError(message, where=f"{paths.display_path(self.path)}{f', {key}' if key else ''}", hint=hint)


def read_user_data(path: Path) -> UserData:
    """Read a file that must be one `#cloud-config`. Raises `UsageError` with line and column for what is not."""
    where = paths.display_path(path)
    try:
        data = read_start(path, LARGEST + 1)
    except OSError as error:
        hint = f"name a file that begins with `{FIRST}`"
        raise UsageError(f"cannot be read: {error.strerror}", where=f"{OPTION} {where}", hint=hint) from error
    if len(data) > LARGEST:
        hint = "a node reads it at every boot: download large files with `runcmd` instead"
        raise UsageError(f"has more than {LARGEST // 2**20} MiB", where=f"{OPTION} {where}", hint=hint)
    check_kind(data, where)
    hint = "it must be a cloud-config in YAML, as UTF-8 text"
    try:
        parsed = document.load_yaml(document.decode_text(data, where), where)
        config = parsed.mapping(where)
    except SeedRefused as error:
        raise located(str(error), where, hint) from error
    if parsed.repeated:
        raise located(parsed.repeated[0], where, "keep one of the two")
    user_data = UserData(path, config)
    check_effect(user_data)
    return user_data


def check_kind(data: bytes, where: str) -> None:
    """Raise `UsageError` for one of cloud-init's other formats, with what to do instead."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:4096].decode(errors="replace").lower()
    first = start.partition("\n")[0].strip()
    if first == FIRST:
        return
    reason = next((reason for sign, reason in OTHERS.items() if start.startswith(sign)), "")
    if data.startswith(b"\x1f\x8b"):
        reason = "compressed: unpack it with `gunzip`"
    elif "mime-version:" in start or start.startswith("content-type:"):
        reason = "a message of several parts: give the cloud-config alone"
    message = f"this is {reason}" if reason else f"the first line is {quote_text(beginning(first))}, expected `{FIRST}`"
    raise UsageError(message, where=f"{where}:1", hint=f"only a file that begins with `{FIRST}` can be merged")


def located(message: str, where: str, hint: str) -> UsageError:
    """The error for a message that begins with the file, and perhaps a position in it."""
    rest = message.removeprefix(where).lstrip(",: ")
    if match := re.fullmatch(r"line (\d+), column (\d+): (.*)", rest, re.DOTALL):
        return UsageError(match[3], where=f"{where}:{match[1]}:{match[2]}", hint=hint)
    return UsageError(rest, where=where, hint=hint)


def check_effect(user_data: UserData) -> None:
    """Raise `UsageError` for keys that would have no effect on a node."""
    config = user_data.config
    reasons = find_without_effect(config)
    for key in ("merge_how", "merge_type"):
        if key in config:
            reasons[key] = "lists are appended, and mappings are merged"
    if reasons:
        listed = "; ".join(f"{quote_text(key)} ({why})" for key, why in list(reasons.items())[:4])
        more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        raise user_data.error(f"these keys have no effect on a node: {listed}{more}", "remove them")


def check_user_data(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for values that could not be applied on a node. `folder` is that of the profile."""
    config = user_data.config
    if isinstance(zone := config.get("timezone"), str):
        try:
            time_zone.check_zone(zone, profile.packages, "timezone")
        except Error as error:
            raise user_data.error(error.message, error.hint or "", "timezone") from error
    check_users(user_data, profile, folder)
    check_files(user_data)
    if isinstance(config.get("users"), list) and "default" not in config["users"]:
        for key in OF_DEFAULT_USER[:2]:
            if key in config:
                hint = "add `default` to `users`, or write it below the user that it is for"
                raise user_data.error(f"`{key}` is for cloud-init's default user, whom `users` leaves out", hint, key)


def check_schema(user_data: UserData, schema: Path) -> None:
    """Raise `UsageError` for the first thing that cloud-init's JSON Schema in the file `schema` does not allow."""
    wrong = jsonschema.exceptions.best_match(load_validator(schema).iter_errors(to_json_value(user_data.config)))
    if wrong is not None:
        # Only the place and the rule: the value may be a secret.
        rule = json.dumps(wrong.validator_value)
        rule = f"`{wrong.validator}` {rule if len(rule) <= 80 else 'of its schema'}"
        hint = "cloud-init's documentation has the form of each key (Module Reference)"
        raise user_data.error(f"cloud-init does not take this: the rule {rule} is broken", hint, wrong.json_path)


@cache
def load_validator(path: Path) -> jsonschema.Draft7Validator:
    """The validator of the schema in a file."""
    return jsonschema.Draft7Validator(json.loads(path.read_text()))


def to_json_value(value: object) -> object:
    """A value of YAML as JSON Schema knows it: bytes (`!!binary`) and dates are texts."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json_value(entry) for entry in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def user_names(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, name) of every user that a cloud-config makes."""
    listed = config.get("users")
    entries = listed if isinstance(listed, list) else []
    made = [(f"users[{number}]", entry.get("name")) for number, entry in enumerate(entries) if isinstance(entry, dict)]
    made += [(f"users[{number}]", entry) for number, entry in enumerate(entries) if isinstance(entry, str)]
    user = config.get("user")
    made.append(("user", user.get("name") if isinstance(user, dict) else user))
    return [(key, name) for key, name in made if isinstance(name, str) and name != "default"]


def check_users(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a user of the name of a system account, or of one of the profile's users."""
    users, groups = accounts.declared_accounts([paths.overlay_path(name, folder) for name in profile.overlays])
    seen = {user.name: "the profile" for user in profile.users}
    for key, name in user_names(user_data.config):
        try:
            accounts.check_name(name, users, groups, key)
        except Error as error:
            raise user_data.error(error.message, error.hint or "", key) from error
        if name in seen:
            hint = f"keep the one of {seen[name]}, or give this one another name"
            raise user_data.error(f"the user {quote_text(name)} is there twice", hint, key)
        seen[name] = key


def check_files(user_data: UserData) -> None:
    """Raise `UsageError` for a file that could not be written on a node, or that the agent's settings are in."""
    listed = user_data.config.get("write_files")
    for number, entry in enumerate(listed if isinstance(listed, list) else []):
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(path, str):
            continue  # cloud-init's schema says what is wrong
        key = f"write_files[{number}]"
        parts = path.split("/")
        if not path.startswith("/") or ".." in parts:
            raise user_data.error(f"found the path {quote_text(path)}", "write an absolute path without `..`", key)
        plain = "/" + "/".join(part for part in parts if part not in ("", "."))
        if plain.startswith(OWN):
            hint = "set it in the profile or with `--set`"
            raise user_data.error(f"the file {quote_text(path)} is the agent's, and made from the profile", hint, key)
        if plain.startswith(READ_ONLY) and not plain.startswith(WRITABLE):
            hint = "put it into an overlay of the image, or write it below /etc, /var or /usr/local"
            raise user_data.error(f"the file {quote_text(path)} can't be written: the root is read-only", hint, key)


def merge_user_data(text: str, user_data: UserData, defaults: frozenset[str]) -> str:
    """The profile's cloud-config `text` with the user's merged into it, as a cloud-config.

    Lists are appended, the profile's entries first; mappings are merged; one value that both state, and state
    differently, is an error, unless the key is one of `defaults`, which the profile does not state itself.
    """
    ours = yaml.safe_load(text)
    theirs = dict(user_data.config)
    if any(key in theirs for key in OF_DEFAULT_USER) and "users" not in theirs:
        theirs["users"] = ["default"]
    merged = merge_maps(ours, theirs, user_data, defaults)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    comments.append(f"# Merged with {user_data.path.name!r}.")
    return "\n".join(comments) + "\n" + yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=10**6)


def merge_maps(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], user_data: UserData, defaults: frozenset[str], above: str = ""
) -> dict[str, Any]:
    """Merge two mappings, both below the key `above`. Raises `UsageError`."""
    merged = dict(ours)
    for key, value in theirs.items():
        dotted, old = f"{above}{key}", ours.get(key)
        if isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
            check_paths(dotted, old, value, user_data)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge_maps(old, value, user_data, frozenset(), f"{dotted}.")
        elif old is None or old == value or dotted in defaults:
            merged[key] = value
        else:
            hint = "remove it here, or change the profile; `--set` changes it for one node"
            raise user_data.error("the profile has another value", hint, dotted)
    return merged


def check_paths(dotted: str, ours: list[Any], theirs: list[Any], user_data: UserData) -> None:
    """Raise `UsageError` for a file that both write: the second would replace the first."""
    own = {entry.get("path") for entry in ours if isinstance(entry, dict)}
    for entry in theirs if dotted == "write_files" else []:
        if isinstance(entry, dict) and entry.get("path") in own and not entry.get("append"):
            hint = "remove it here, or what makes it in the profile"
            raise user_data.error(f"the profile writes the file {quote_text(str(entry['path']))} too", hint, dotted)
