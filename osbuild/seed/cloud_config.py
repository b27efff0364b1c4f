"""Merges a user's own cloud-config with the profile's: `edge-osbuild seed --user-data FILE`."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from osbuild.config.checks import accounts, time_zone
from osbuild.config.document import quote_text
from osbuild.config.profile import Profile
from osbuild.host import paths
from osbuild.seed import writable
from osbuild.seed.user_entries import user_names
from osbuild.seed.yaml_positions import find_position
from osbuild.shared.errors import Error, UsageError
from osbuild.shared.files import read_start
from osbuild.shared.quoting import redacted_beginning
from osbuild.shared.seed import document
from osbuild.shared.seed.effective_keys import find_without_effect
from osbuild.shared.seed.refused import SeedRefused

MAX_SIZE = 2**20  # bytes
HEADER = "#cloud-config"
OPTION = "--user-data"
UNSUPPORTED_FORMATS = {
    "#!": "a script: put its commands below `runcmd` in a cloud-config",
    "## template: jinja": "a template: write the values themselves, or write one file for each node",
    "#include": "a list of URLs, but a node is configured before it has a network",
    "#cloud-boothook": "a boot hook: put its commands below `bootcmd` in a cloud-config",
    "#part-handler": "a part handler, which has no effect without a message of several parts",
    "#cloud-config-archive": "an archive of several parts: pass only the cloud-config",
    "#cloud-config-jsonp": "a patch: write the keys themselves",
}
# Keys of cloud-init's default user, who is created unless a list of users omits `default`.
DEFAULT_USER_KEYS = ("password", "ssh_authorized_keys", "user")
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class UserData:
    """A file of the user, parsed and checked. `config` may contain secrets and must not be logged."""

    path: Path
    config: Mapping[str, Any] = field(repr=False)
    text: str = field(repr=False, default="")

    def error(self, message: str, hint: str, key: str = "") -> UsageError:
        """Return an error about the file, or about its dotted key `key`, with line and column."""
        position = f"{find_position(self.text, key)}, {key}" if key else ""
        return UsageError(message, where=f"{paths.display_path(self.path)}{position}", hint=hint)

    @contextmanager
    def located(self, key: str) -> Iterator[None]:
        """Convert an `Error` of a check that profiles share to one about `key`."""
        try:
            yield
        except Error as error:
            raise self.error(error.message, error.hint or "", key) from error


def read_user_data(path: Path) -> UserData:
    """Read a `#cloud-config` file. Raises `UsageError` with line and column if it is invalid."""
    where = paths.display_path(path)
    try:
        data = read_start(path, MAX_SIZE + 1)
    except OSError as error:
        hint = f"name a file that begins with `{HEADER}`"
        raise UsageError(f"cannot be read: {error.strerror}", where=f"{OPTION} {where}", hint=hint) from error
    if len(data) > MAX_SIZE:
        hint = "a node reads the seed at every boot: download large files with `runcmd` instead"
        raise UsageError(f"the file has more than {MAX_SIZE // 2**20} MiB", where=f"{OPTION} {where}", hint=hint)
    check_kind(data, where)
    hint = "it must be a cloud-config in YAML, as UTF-8 text"
    try:
        text = document.decode_text(data, where)
        parsed = document.load_yaml(text, where)
        config = parsed.mapping(where)
    except SeedRefused as error:
        raise located(str(error), where, hint) from error
    if parsed.repeated:
        raise located(parsed.repeated[0], where, "keep one of the two")
    user_data = UserData(path, config, text)
    check_effect(user_data)
    check_characters(user_data, config, "")
    return user_data


def check_kind(data: bytes, where: str) -> None:
    """Raise `UsageError` for cloud-init's other formats, with a hint for each."""
    start = data.removeprefix(b"\xef\xbb\xbf").lstrip()[:4096].decode(errors="replace").lower()
    first = start.partition("\n")[0].strip()
    if first == HEADER:
        return
    reason = next((reason for prefix, reason in UNSUPPORTED_FORMATS.items() if start.startswith(prefix)), "")
    if data.startswith(b"\x1f\x8b"):
        reason = "compressed: unpack it with `gunzip`"
    elif "mime-version:" in start or start.startswith("content-type:"):
        reason = "a message of several parts: pass only the cloud-config"
    message = (
        f"this is {reason}"
        if reason
        else f"the first line is {quote_text(redacted_beginning(first))}, expected `{HEADER}`"
    )
    raise UsageError(message, where=f"{where}:1", hint=f"only a file that begins with `{HEADER}` can be merged")


def located(message: str, where: str, hint: str) -> UsageError:
    """Return an error for a message that begins with the file's name, and optionally line and column."""
    text = message.removeprefix(where).lstrip(",: ")
    if match := re.fullmatch(r"line (\d+), column (\d+): (.*)", text, re.DOTALL):
        return UsageError(match[3], where=f"{where}:{match[1]}:{match[2]}", hint=hint)
    return UsageError(text, where=where, hint=hint)


def check_effect(user_data: UserData) -> None:
    """Raise `UsageError` for keys that have no effect on a node."""
    config = user_data.config
    reasons = find_without_effect(config)
    for key in ("merge_how", "merge_type"):
        if key in config:
            reasons[key] = "lists are appended, and mappings are merged"
    if reasons:
        listed = "; ".join(f"{quote_text(key)} ({why})" for key, why in list(reasons.items())[:4])
        more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
        raise user_data.error(f"these keys have no effect on a node: {listed}{more}", "remove them")


def check_characters(user_data: UserData, value: object, key: str) -> None:
    """Raise `UsageError` for text with half of a surrogate pair, which can't be written to a file."""
    if isinstance(value, dict):
        for name, entry in value.items():
            check_characters(user_data, entry, f"{key}.{name}".removeprefix("."))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            check_characters(user_data, entry, f"{key}[{number}]")
    elif isinstance(value, str) and SURROGATE.search(value):
        raise user_data.error("found half of a surrogate pair, expected text", "write the character itself", key)


def check_user_data(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for values that can't be applied on a node. `folder` is the profile's."""
    config = user_data.config
    if isinstance(zone := config.get("timezone"), str):
        with user_data.located("timezone"):
            time_zone.check_zone(zone, profile.packages, "timezone")
    check_users(user_data, profile, folder)
    if isinstance(config.get("users"), list) and "default" not in config["users"]:
        for key in DEFAULT_USER_KEYS[:2]:
            if key in config:
                hint = "add `default` to `users`, or move the key to its user"
                raise user_data.error(f"`{key}` is for cloud-init's default user, whom `users` omits", hint, key)


def check_schema(user_data: UserData, schema: Path) -> None:
    """Raise `UsageError` for a value that cloud-init's JSON Schema in the file `schema` does not allow."""
    problem = jsonschema.exceptions.best_match(load_validator(schema).iter_errors(to_json_value(user_data.config)))
    if problem is not None:
        # Only the path and the rule are printed: the value may be a secret.
        rule = json.dumps(problem.validator_value)
        rule = f"`{problem.validator}` {rule if len(rule) <= 80 else 'of its schema'}"
        hint = "cloud-init's documentation describes each key (Module Reference)"
        raise user_data.error(
            f"cloud-init does not accept this: it violates the rule {rule}", hint, problem.json_path.removeprefix("$.")
        )


@cache
def load_validator(path: Path) -> jsonschema.Draft7Validator:
    """Return the validator of the schema in a file."""
    return jsonschema.Draft7Validator(json.loads(path.read_text()))


def to_json_value(value: object) -> object:
    """Convert a YAML value for JSON Schema: bytes (`!!binary`) and dates become strings."""
    if isinstance(value, Mapping):
        return {str(key): to_json_value(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [to_json_value(entry) for entry in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def check_users(user_data: UserData, profile: Profile, folder: Path) -> None:
    """Raise `UsageError` for a user with the name of a system account or of a user of the profile."""
    users, groups = accounts.declared_accounts([paths.overlay_path(name, folder) for name in profile.overlays])
    owners = {user.name: "the profile" for user in profile.users}
    for key, name in user_names(user_data.config):
        with user_data.located(key):
            accounts.check_name(name, users, groups, key)
        if name in owners:
            hint = f"keep the user of {owners[name]}, or rename this one"
            raise user_data.error(f"the user {quote_text(name)} exists twice", hint, key)
        owners[name] = key


def merge_user_data(text: str, user_data: UserData, defaults: frozenset[str]) -> str:
    """Return the profile's cloud-config `text`, merged with the user's.

    The user's lists are appended to the profile's, and mappings are merged. Raises `UsageError` if both have different
    values for a key, except for the keys in `defaults`, which have only a default in the profile.
    """
    profile_config = yaml.safe_load(text)
    user_config = dict(user_data.config)
    if any(key in user_config for key in DEFAULT_USER_KEYS) and "users" not in user_config:
        user_config["users"] = ["default"]
    merged = merge_maps(profile_config, user_config, user_data, defaults)
    comments = [line for line in text.splitlines() if line.startswith("#")]
    comments.append(f"# Merged with {user_data.path.name!r}.")
    return "\n".join(comments) + "\n" + yaml.safe_dump(merged, sort_keys=False, allow_unicode=True, width=10**6)


def merge_maps(
    profile_map: Mapping[str, Any],
    user_map: Mapping[str, Any],
    user_data: UserData,
    defaults: frozenset[str],
    parent: str = "",
) -> dict[str, Any]:
    """Merge two mappings. `parent` is the dotted path of their key, with a trailing dot. Raises `UsageError`."""
    merged = dict(profile_map)
    for key, value in user_map.items():
        dotted, old = f"{parent}{key}", profile_map.get(key)
        if isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *value]
            check_paths(dotted, old, value, user_data)
        elif isinstance(old, dict) and isinstance(value, dict):
            merged[key] = merge_maps(old, value, user_data, frozenset(), f"{dotted}.")
        elif old is None or old == value or dotted in defaults:
            merged[key] = value
        else:
            hint = "remove the key here, or change the profile; `--set` changes it for one node"
            raise user_data.error("the profile has another value", hint, dotted)
    return merged


def check_paths(dotted: str, profile_list: list[Any], user_list: list[Any], user_data: UserData) -> None:
    """Raise `UsageError` if both lists of `write_files` write the same file, because the second would replace it."""
    profile_paths = {str(entry.get("path")) for entry in profile_list if isinstance(entry, dict)}
    for number, entry in enumerate(user_list if dotted == "write_files" else []):
        if not isinstance(entry, dict):
            continue
        path = writable.normalize(str(entry.get("path")))
        hint = "remove the file here, or remove the setting that writes it from the profile"
        if path in profile_paths and not entry.get("append"):
            message = f"the profile writes the file {quote_text(path)} too"
            raise user_data.error(message, hint, f"{dotted}[{number}]")
        for other in sorted(profile_paths):
            if path.startswith(f"{other}/") or other.startswith(f"{path}/"):
                message = f"the file {quote_text(path)} and the profile's {quote_text(other)} can't both be files"
                raise user_data.error(message, hint, f"{dotted}[{number}]")
