"""Whether a seed lets anybody log in to its node."""

import json
from collections.abc import Mapping
from typing import Any

import yaml

WARNING = (
    "this seed lets nobody log in to the node: no user has an SSH key or a password. Add one to the profile, such as "
    "`users: [{name: admin, sudo: true, ssh_keys: [file:admin.pub]}]`"
)
KEYS = ("ssh_authorized_keys", "ssh-authorized-keys")
PASSWORDS = ("passwd", "hashed_passwd", "plain_text_passwd")
COMMANDS = ("write_files", "runcmd", "bootcmd")  # which may do it too, with one of:
TRACES = ("authorized_keys", "passwd", "useradd", "adduser")


def allows_login(user_data: str) -> bool:
    """Whether a cloud-config gives a user an SSH key or a password, or might do so by a command or file."""
    config = yaml.safe_load(user_data) or {}
    listed = config.get("users") or []
    users = [*(listed.values() if isinstance(listed, dict) else listed), config.get("user")]
    return (
        any(config.get(key) for key in (*KEYS, "password", "chpasswd"))
        or any(has_credentials(user) for user in users if isinstance(user, dict))
        or any(trace in json.dumps(config.get(key), default=str) for key in COMMANDS for trace in TRACES)
    )


def has_credentials(user: Mapping[str, Any]) -> bool:
    """Whether a user can log in. cloud-init locks passwords unless `lock_passwd` is false."""
    locked = user.get("lock_passwd", user.get("lock-passwd", True))
    return any(user.get(key) for key in KEYS) or (not locked and any(user.get(key) for key in PASSWORDS))
